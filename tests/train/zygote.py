"""Start trainings by forking a process that has imported everything already: a start costs a second, not eight.

Reads one JSON object a line from standard input, ``{"arguments": [...], "log": FILE}``; runs ``train.launch``
with these arguments in a session of its own; answers with its process id, and with its exit code when it has ended.
The launcher is the real one: only its way to start a process is a fork here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence

os.environ |= {"DS_ACCELERATOR": "cpu", "DS_LOG_LEVEL": "warning"}

import deepspeed

from safe_llava.core import cli
from safe_llava.core.imports import light_transformers

light_transformers()
import transformers  # noqa: E402
from transformers.models.llava import image_processing_pil_llava  # noqa: E402

from safe_llava.checkpoints import export  # noqa: E402
from safe_llava.train import launch, run  # noqa: E402
from safe_llava.train.model import build as model  # noqa: E402
from safe_llava.train.model import loss  # noqa: E402
from safe_llava.train.samples import annotated as samples  # noqa: E402
from safe_llava.train.samples import batches  # noqa: E402

# Imported here, where it is done once; transformers imports a class when it is asked for.
IMPORTED = (deepspeed, image_processing_pil_llava, batches, export, loss, model, samples)
CLASSES = ("AutoModelForCausalLM", "CLIPVisionModel", "GenerationConfig", "LlamaForCausalLM", "LlavaProcessor")
for name in (*CLASSES, "LlavaForConditionalGeneration"):
    getattr(transformers, name)
REAL_POPEN = subprocess.Popen


class Forked:
    """A forked process with what the launcher uses of ``subprocess.Popen``."""

    def __init__(
        self, command: Sequence[str], preexec_fn: Callable[[], None], env: Mapping[str, str], **_: object
    ) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            subprocess.Popen = REAL_POPEN  # type: ignore[misc]
            preexec_fn()
            os.environ |= env
            finish(lambda: cli.run(lambda _: run.main(list(command[3:]))))

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def finish(work: Callable[[], object]) -> None:
    """Run to the end and leave, whatever happens, without what the parent would do at its end."""
    code = 1
    try:
        work()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def start(order: dict[str, object]) -> int:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        subprocess.Popen = Forked  # type: ignore[assignment,misc]
        finish(lambda: cli.run(lambda _: launch.main(list(order["arguments"]))))  # type: ignore[call-overload]
    return pid


def main() -> None:
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        pid = start(json.loads(line))
        print(json.dumps(pid), flush=True)
        print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])), flush=True)


if __name__ == "__main__":
    main()
