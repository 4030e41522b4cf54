"""Safe-LLaVA: train LLaVA-1.5 on cleaned annotations and measure what it keeps to itself.

One package, one folder per stage of the workflow: ``data``, ``train``, ``prism``, ``benchmarks``
and ``paper``. ``config`` is the typed configuration, ``core`` what every stage shares, ``engine``
the generation back ends that ``prism`` and ``benchmarks`` share, ``cluster`` what is asked of SLURM before and
after a run, ``demo`` the miniature upstream.
"""

__version__ = "0.1.0"
