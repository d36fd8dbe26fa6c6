"""What a Dask worker runs: the tasks of every place, with one bundle a process."""

from __future__ import annotations

import os
import threading

from distributed import get_worker

from lymphinfer.batch.places.dask_cluster import THREADS
from lymphinfer.batch.places.perform import Performer, without_error
from lymphinfer.batch.tasks import Advanced, Answer, Event, FinishTask, Task
from lymphinfer.threads import set_threads

_performer = Performer()
# A network belongs to one thread at a time, however many threads a worker has.
_device = threading.Lock()


def do(topic: str, task: Task) -> Answer:
    """Do a task; a failure is an answer, not an exception.

    Parameters
    ----------
    topic : str
        Topic of the scheduler's log on which it is told how the task advances.
    task : Task
        With every path from the root.

    Returns
    -------
    Answer
    """
    worker = get_worker()

    def tell(event: Event) -> None:
        value = event.nuclei if isinstance(event, Advanced) else None
        worker.log_event(topic, (type(event).__name__.lower(), event.task, value))

    worker.log_event(topic, ("taken", task.id, worker.address))
    # Dask starts its workers with OMP_NUM_THREADS=1.
    threads = int(os.environ.get(THREADS) or worker.state.nthreads)
    set_threads(threads)
    if isinstance(task, FinishTask):
        return without_error(Performer().do(task, tell))
    with _device:
        answer = _performer.do(task, tell)
        # The next task is likely another slide's.
        _performer.close()
    return without_error(answer)
