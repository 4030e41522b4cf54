"""Snakemake's SLURM executor, extended: whatever happens to a job, the run goes on or ends; it never waits for ever.

It takes from the published plugin how a job's resources become an sbatch call, and does by itself what that one does
differently: how the state of the jobs is found out, what follows from it, and what is left when Snakemake ends.

- One squeue for all jobs of the user; what the controller has forgotten is asked of the accounting, and what that does
  not know is read in what the job itself wrote. Each of the three may be away.
- What SLURM or somebody else did to a job is undone by submitting it again, so often and no more (``fates.ALLOWED``),
  with twice the memory after a kill for memory and twice the time after a time limit. What the rule did is an error.
- Jobs are never requeued by SLURM: there is one owner, who knows whether the job is wanted.
- Ctrl-C cancels the jobs. SIGTERM and SIGHUP (a login node that goes down, a lost connection) leave them, as SIGKILL
  does, and the next Snakemake in the folder takes them over.
"""

from __future__ import annotations

import asyncio
import gc
import shlex
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from snakemake_executor_plugin_slurm_steady import slurm
from snakemake_executor_plugin_slurm_steady.asking import (
    GROWING,
    AskedJob,
    asked_for,
    enlarged,
    log_pattern,
    sbatch_call,
    step_call,
)
from snakemake_executor_plugin_slurm_steady.efficiency import write_report
from snakemake_executor_plugin_slurm_steady.fates import (
    ALLOWED,
    GROWS,
    HELD_BY_SOMEBODY,
    LIMITED,
    Fate,
    Record,
    Sight,
    fate_of,
    fate_of_unseen,
    why,
)
from snakemake_executor_plugin_slurm_steady.ledger import Entry, Ledger, digest_of, key_of, log_tail, stamps
from snakemake_executor_plugin_slurm_steady.polling import PollInterval
from snakemake_executor_plugin_slurm_steady.published import PublishedExecutor, get_job_wildcards
from snakemake_executor_plugin_slurm_steady.published import common_settings as common_settings
from snakemake_executor_plugin_slurm_steady.script import batch_script
from snakemake_executor_plugin_slurm_steady.settings import ExecutorSettings as ExecutorSettings
from snakemake_executor_plugin_slurm_steady.site import account_argument, check_site, partition_argument

# Snakemake imports its executors early, and modules, rules and jobs live as long as the process: the garbage collector
# need not look through them so often, which is a tenth of a dry-run.
gc.freeze()
gc.set_threshold(500_000, 50, 100)

FOLDER = Path(".snakemake/slurm-steady")
ABSENCE = 86_400.0  # of the controller while jobs run, after which Snakemake ends and leaves them
UNSEEN_SECONDS = 60.0  # after which a job that nobody knows is lost, or one that ends is what its record says
UNCLEAR_SECONDS = 86_400.0  # for which a job may be in a state that says nothing, with a record that says nothing
NEVER_SECONDS = 60.0  # for which a job may say that it can never start: limits may be raised, reasons change
SETTLE_SECONDS = 0.3  # between a batch script's last line and the controller's knowing
TICK_SECONDS = 0.5
SUBMITTING = 8  # at once
CANCEL_SECONDS = 30.0


class Executor(PublishedExecutor):
    """Submits the jobs of a workflow, follows them, and submits again what was interrupted."""

    def __init__(self, workflow: Any, logger: Any) -> None:
        # The waiting thread starts in the inherited constructor, before ``__post_init__``.
        self._ledger = Ledger(FOLDER)
        self._polling = PollInterval(time.monotonic())
        self._signals = self._ledger.signals()
        self._entries: dict[str, Entry] = {}  # by SLURM's number: what is queued or runs
        self._unanswered: list[str] = []  # names of submissions that SLURM may have taken without saying so
        self._since: dict[str, tuple[str, float]] = {}  # by SLURM's number: a state that is not borne for ever
        self._said: set[str] = set()  # what pending jobs wait for
        self._faulty: set[str] = set()  # nodes with faults of their hardware, as SLURM names them
        self._numbers: list[str] = []  # SLURM's, of all submissions of this run
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._leaving = False
        self._away: float | None = None  # since when the controller does not answer
        super().__init__(workflow, logger)

    def __post_init__(self, test_mode: bool = False) -> None:
        check_site(self.workflow.executor_settings)
        try:
            super().__post_init__(test_mode)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            # The published plugin reads the file of partitions, and says nothing else of one that it cannot read.
            raise WorkflowError(
                f"{self.workflow.executor_settings.partition_config}: not a file of partitions: {error}"
            ) from error
        # The published plugin's two would both be held by two jobs that do not finish completing.
        self._job_submission_executor = ThreadPoolExecutor(SUBMITTING, thread_name_prefix="slurm_job_submit")
        if holder := self._ledger.lock():
            raise WorkflowError(
                f"another Snakemake submits jobs from this folder: {holder}\n  remedy: wait for its end, or end it"
            )
        if not self._ledger.has_locks:
            self.logger.warning(
                f"{FOLDER} is on a file system without locks: nothing keeps a second Snakemake from submitting from "
                "this folder; start none."
            )
        # nohup ignores it, and means to.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._leave)

    # --- how it ends

    def _leave(self, number: int, _frame: Any) -> None:
        """End Snakemake and leave the jobs to the next one."""
        if not self._leaving:
            self._leaving = True
            self.logger.warning(f"{signal.Signals(number).name}: ending; the jobs go on.")
            raise SystemExit(128 + number)

    def cancel(self) -> None:
        """Cancel every job that was submitted, unless they are left to the next Snakemake."""
        self._stopping.set()
        # What waits to be submitted is dropped; what is being submitted is waited for, to be cancelled too.
        self._job_submission_executor.shutdown(wait=True, cancel_futures=True)
        with self._guard:
            jobs = sorted(self._entries)
        if jobs and self._leaving:
            self.logger.warning(
                f"Left queued or running: SLURM jobs {' '.join(jobs)}. The same command takes them over; "
                f"`scancel {' '.join(jobs)}` ends them."
            )
        elif (jobs or self._unanswered) and not self._leaving:
            self._cancel_all(jobs)
        self.shutdown()

    def _cancel_all(self, jobs: list[str]) -> None:
        deadline = time.monotonic() + CANCEL_SECONDS
        while True:
            try:
                found = jobs + [number for name in self._unanswered if (number := slurm.named(name))]
                slurm.cancel(found)
                if found:
                    self.logger.warning(f"Cancelled: SLURM jobs {' '.join(found)}.")
                return
            except slurm.SlurmError as error:
                if time.monotonic() > deadline:
                    self.logger.error(
                        f"SLURM jobs {' '.join(jobs + self._unanswered)} could not be cancelled: {error}\n"
                        "  remedy: scancel them later, or run the same command again, which takes them over"
                    )
                    return
                time.sleep(2)

    def shutdown(self) -> None:
        """End the waiting thread; what jobs left behind still need is kept."""
        self._stopping.set()
        if self._leaving:
            # Removed below is this folder; queued jobs look for the other one when they start.
            self._tmpdir = tempfile.mkdtemp(dir=".snakemake", prefix="tmp.")
        settings = self.workflow.executor_settings
        wanted, settings.efficiency_report = settings.efficiency_report, False
        super().shutdown()
        if wanted and not self._leaving:
            folder = settings.efficiency_report_path
            write_report(self._numbers, settings.efficiency_threshold, folder, self.run_uuid, self.logger)

    # --- submission

    def run_jobs(self, jobs: list[Any]) -> None:
        """Submit jobs, one sbatch each, in the background."""
        # Snakemake's own handler, set after this executor was made, would wait for all jobs to end.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._leave)
        for job in jobs:
            self.run_job_pre(job)
            self._job_submission_executor.submit(self.run_job, job)

    def run_job(self, job: Any) -> None:
        """Take over the job's submission of an earlier Snakemake, or submit it; whatever goes wrong is its error."""
        with self._faults_of(job):
            entry = self._entry(job)
            content = digest_of([getattr(job, "shellcmd", None), job.rules, stamps(job.input)])
            if not self._taken_over(job, entry, content):
                asked = asked_for(dict(job.resources.items()))
                if (entry.content, entry.asked) != (content, asked):
                    entry.forget_growth()
                entry.content, entry.asked = content, asked
                self._submit(job, entry)
            self._report_submitted(job, entry)

    @contextmanager
    def _faults_of(self, job: Any) -> Iterator[None]:
        """Make a fault of a submitting thread the job's: nobody sees its exceptions, and the job would never end."""
        try:
            yield
        except Exception as error:
            if not self._stopping.is_set():
                known = isinstance(error, slurm.SlurmError | WorkflowError | OSError)
                said = str(error) if known else traceback.format_exc()
                self._report_job_error_threadsafe(SubmittedJobInfo(job), f"SLURM takes no job: {said}\n")

    def _report_submitted(self, job: Any, entry: Entry) -> None:
        self._polling.happened(time.monotonic())
        self._report_job_submission_threadsafe(
            SubmittedJobInfo(job, external_jobid=entry.slurm_id, aux={"slurm_logfile": Path(entry.log)})
        )

    def _entry(self, job: Any) -> Entry:
        outputs = list(job.output) or [f"job {job.name} {get_job_wildcards(job)}"]
        return self._ledger.entry(key_of(job.name, outputs), job.name)

    def _taken_over(self, job: Any, entry: Entry, content: str) -> bool:
        """Take over what an earlier Snakemake left running, if it is the same; end it if not."""
        answered = partial(slurm.answered, stopped=self._stopping.wait)
        if entry.slurm_id is None and entry.token and (found := answered(lambda: slurm.named(entry.job_name))):
            # That Snakemake was killed when SLURM had taken the job, and its number was not yet written down.
            entry.taken(found)
        if entry.slurm_id is None:
            return False
        sight = answered(slurm.mine).get(entry.slurm_id)
        made = sight is not None and sight.state == "COMPLETED" and 0 not in stamps(job.output).values()
        if entry.content == content and (made or (sight is not None and sight.active)):
            self.logger.info(f"Job {job.jobid}: SLURM job {entry.slurm_id} of an earlier run is taken over.")
            with self._guard:
                self._entries[entry.slurm_id] = entry
                self._numbers.append(entry.slurm_id)
            return True
        if sight is not None and sight.active:
            slurm.end(entry.slurm_id, self._stopping.wait)
        self._ledger.ended(entry, Fate.LOST if sight is None else fate_of(sight, self._ledger.record(entry), ""), "")
        return False

    def _submit(self, job: Any, entry: Entry, avoided: str = "", anywhere: bool = False) -> None:
        """Submit a job, away from faulty and avoided nodes if SLURM takes it so; growth that it refuses is not kept."""
        away = set() if anywhere else self._faulty | set(avoided.split())
        try:
            self._submit_once(job, entry, away)
        except slurm.NoAnswer:
            self._unanswered.append(entry.job_name)
            raise
        except slurm.SlurmError:
            if not away:
                entry.forget_growth()
                self._ledger.save(entry)
                raise
            self._submit(job, entry, anywhere=True)

    def _submit_once(self, job: Any, entry: Entry, away: set[str]) -> None:
        asking = AskedJob(job, enlarged({**dict(job.resources.items()), **entry.given}, entry.grown))
        wildcards = get_job_wildcards(job)
        log = self.slurm_logdir / f"{'group' if job.is_group() else 'rule'}_{job.name}" / wildcards / "%j.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        settings = self.workflow.executor_settings
        entry.begin(str(log), f"{settings.jobname_prefix}." if settings.jobname_prefix else "")
        parts = {
            "run_uuid": entry.job_name,
            "slurm_logfile": log_pattern(log),
            "comment_str": f"rule_{job.name}" + (f"_wildcards_{wildcards}" if wildcards else ""),
            "account": account_argument(asking, settings),
            "partition": partition_argument(asking, settings, self._partitions, self.logger),
            "workdir": self.workflow.workdir_init,
        }
        excluded = {shlex.quote(node) for node in self._failed_nodes | away}
        call = sbatch_call(asking, settings, parts, excluded)
        command = step_call(asking, self.format_job_exec(job))
        script = batch_script(command, self._ledger.record_file(entry), self._ledger.events)
        # Written before it is submitted: a Snakemake killed in between leaves a name to look for.
        self._ledger.save(entry)
        slurm_id = slurm.submit(call, script, entry.job_name, self._stopping.wait)
        entry.taken(slurm_id)
        with self._guard:
            self._entries[slurm_id] = entry
            self._numbers.append(slurm_id)
        self._ledger.save(entry)
        self.logger.info(f"Job {job.jobid} has been submitted with SLURM jobid {slurm_id} (log: {entry.log}).")

    def additional_general_args(self) -> str:
        """Nothing: the job's Snakemake runs the rule, and starts no other."""
        return ""

    # --- what becomes of the jobs

    async def sleep(self) -> None:
        """Wait until it is time to ask, a job says that it has ended, or Snakemake ends."""
        while self.wait and not self._stopping.is_set():
            await asyncio.sleep(TICK_SECONDS)
            signals = self._ledger.signals()
            if signals != self._signals:
                self._signals = signals
                self._polling.happened(time.monotonic())
                await asyncio.sleep(SETTLE_SECONDS)
                return
            if self._polling.due(time.monotonic()):
                return

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Ask once for all jobs; report those that have ended, and yield the others."""
        seen = await asyncio.to_thread(self._look, active_jobs) if active_jobs else None
        self._polling.asked(time.monotonic())
        for info in active_jobs:
            fate = Fate.ACTIVE
            if seen is not None and not self._stopping.is_set():
                fate = self._fate(info, seen.get(str(info.external_jobid)))
            held = fate in (Fate.IMPOSSIBLE, Fate.NODE_FAULTY)  # unless it has ended, which a cancellation leaves so
            if held and not await asyncio.to_thread(self._cancelled, str(info.external_jobid)):
                fate = Fate.ACTIVE
            if fate is Fate.ACTIVE:
                yield info
            else:
                self._polling.happened(time.monotonic())
                self._settle(info, fate, seen or {})

    def _look(self, active_jobs: list[SubmittedJobInfo]) -> dict[str, Sight] | None:
        """What SLURM shows of the jobs; None if nobody answers.

        Raises:
            WorkflowError: nobody has for a day.
        """
        try:
            seen = slurm.mine()
        except slurm.SlurmError as error:
            if self._away is None:
                self.logger.warning(f"The controller of SLURM does not answer ({error}); waiting for it.")
                self._away = time.monotonic()
            if time.monotonic() - self._away > ABSENCE:
                self._leaving = True
                raise WorkflowError(
                    f"the controller of SLURM has not answered for {ABSENCE / 3600:.0f} hours: {error}\n"
                    "  remedy: run the same command when it does; it takes over the jobs that are left"
                ) from error
            return None
        if self._away is not None:
            self.logger.warning("The controller of SLURM answers again.")
        self._away = None
        forgotten = [str(info.external_jobid) for info in active_jobs if info.external_jobid not in seen]
        return {**slurm.remembered(forgotten), **seen} if forgotten else seen

    def _fate(self, info: SubmittedJobInfo, sight: Sight | None) -> Fate:
        slurm_id = str(info.external_jobid)
        entry = self._entries[slurm_id]
        record = self._ledger.record(entry)
        if sight is None or sight.unclear:
            fate = fate_of_unseen(record, said_by(info.job, entry, record))
            if sight is None:
                return fate if fate is not Fate.LOST else self._after(slurm_id, fate, UNSEEN_SECONDS)
            return self._after(slurm_id, fate, UNCLEAR_SECONDS if fate is Fate.LOST else UNSEEN_SECONDS, sight.state)
        fate = fate_of(sight, record, said_by(info.job, entry, record) if not sight.active else "")
        if fate is Fate.IMPOSSIBLE:
            return self._after(slurm_id, fate, NEVER_SECONDS, sight.reason)
        if sight.state == "PENDING":
            self._say_what_holds(slurm_id, sight.reason)
        self._since.pop(slurm_id, None)
        return fate

    def _say_what_holds(self, slurm_id: str, reason: str) -> None:
        """Say once of a job that somebody holds it, and once of a limit that a job waits for it."""
        held = reason in HELD_BY_SOMEBODY
        if not (held or LIMITED.match(reason)) or (said := f"{slurm_id if held else ''} {reason}") in self._said:
            return
        self._said.add(said)
        if held:
            self.logger.warning(f"SLURM job {slurm_id} is held ({reason}): `scontrol release {slurm_id}`.")
        else:
            self.logger.warning(
                f"SLURM job {slurm_id} waits ({reason}): till the limit lets it start, or for ever if it asks for more."
            )

    def _after(self, slurm_id: str, fate: Fate, seconds: float, why: str = "") -> Fate:
        """A fate that is believed only when it has lasted."""
        known, since = self._since.setdefault(slurm_id, (why, time.monotonic()))
        if known != why:
            self._since[slurm_id] = (why, time.monotonic())
            return Fate.ACTIVE
        return fate if time.monotonic() - since > seconds else Fate.ACTIVE

    def _cancelled(self, slurm_id: str) -> bool:
        """Cancel a job that can never start; False where the controller does not answer, which keeps the job."""
        try:
            slurm.cancel([slurm_id])
        except slurm.NoAnswer:
            return False
        return True

    def _settle(self, info: SubmittedJobInfo, fate: Fate, seen: dict[str, Sight]) -> None:
        """Report a job that has ended, or submit it again."""
        slurm_id = str(info.external_jobid)
        with self._guard:
            entry = self._entries.pop(slurm_id)
        sight = seen.get(slurm_id, Sight(""))
        entry.events[fate.name] = entry.events.get(fate.name, 0) + 1
        log, times = entry.log, entry.events[fate.name]
        again = times <= ALLOWED.get(fate, 0)
        # With notice a rule saves its work, and goes on with it in the next job.
        more = GROWS.get(fate) if not (fate is Fate.OUT_OF_TIME and info.job.resources.get("notice")) else None
        if again and more and (more := self._growing(info.job, entry, more, slurm_id)):
            entry.grown[more] += 1
        avoided = self._avoided(entry, fate, sight.nodes)
        if not again:
            # The next Snakemake starts to count anew, but knows what the job needs.
            entry.events = {}
        if fate is Fate.IMPOSSIBLE:
            entry.forget_growth()
        self._ledger.ended(entry, fate, sight.nodes)
        if fate is Fate.DONE:
            self.report_job_success(info)
            if not self.workflow.executor_settings.keep_successful_logs:
                Path(log).unlink(missing_ok=True)
        elif again:
            how = f"submitted again{f' with twice the {more}' if more else ''} ({times} of {ALLOWED[fate]})"
            self.logger.warning(f"SLURM job {slurm_id} of job {info.job.jobid} {fate.value}: {how}.")
            self._again(info.job, entry, fate, sight, slurm_id, avoided)
        else:
            self.report_job_error(info, msg=why(slurm_id, fate, sight, times), aux_logs=[log])

    def _avoided(self, entry: Entry, fate: Fate, nodes: str) -> str:
        """Return the nodes that the next submission alone avoids; a node known as faulty is excluded for all jobs."""
        several = bool(set("[,") & set(nodes))
        if fate is Fate.NODE_LOST:
            # It may come back as it went; an allocation of several names none of them.
            return "" if several else nodes
        if fate is not Fate.NODE_FAULTY:
            return ""
        node = self._ledger.record(entry).first_failed if several else nodes
        if node and node not in self._faulty:
            self._faulty.add(node)
            self.logger.warning(
                f"Node {node} is excluded: SLURM job {entry.slurm_id} met a fault there (log: {entry.log})."
            )
        return "" if node else nodes

    def _growing(self, job: Any, entry: Entry, what: str, slurm_id: str) -> str | None:
        """Return what there can be more of; None where neither the rule nor SLURM says how much there was."""
        names = GROWING[what]
        if not any(job.resources.get(name) or entry.given.get(name) for name in names):
            given = slurm.given(slurm_id)
            entry.given |= {name: given[name] for name in names if name in given}
        return what if any(job.resources.get(name) or entry.given.get(name) for name in names) else None

    def _again(self, job: Any, entry: Entry, fate: Fate, sight: Sight, slurm_id: str, avoided: str) -> None:
        """Submit a job once more: no attempt of Snakemake's, whose rules did nothing wrong."""
        # It takes no more when Snakemake ends.
        with suppress(RuntimeError):
            self._job_submission_executor.submit(self._resubmit, job, entry, fate, sight, slurm_id, avoided)

    def _resubmit(self, job: Any, entry: Entry, fate: Fate, sight: Sight, slurm_id: str, avoided: str) -> None:
        with self._faults_of(job):
            if sight.active or fate in (Fate.PREEMPTED, Fate.NODE_LOST):
                # SLURM has not done with it, or requeues it all the same, and two would write the same files.
                slurm.end(slurm_id, self._stopping.wait)
            self._submit(job, entry, avoided)
            self._report_submitted(job, entry)


def said_by(job: Any, entry: Entry, record: Record) -> str:
    """The last lines of a job's logs: SLURM's, and those of its rules, an earlier run's until a shell began."""
    rules = getattr(job, "log", []) if record.started else []
    return "\n".join(log_tail(str(path)) for path in [entry.log, *rules])
