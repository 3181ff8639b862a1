"""What happened, for people and programs: history's rows, with what this process knows of the moment.

    gateway ──► Hindsight ──► store (in a thread), once the projector has read what stood in the log
                    └───────► LocalPort: the status of this moment, steps that run now

`asking.py` is what can be asked, `filters.py` which runs are meant, `pages.py` and `waiting.py` make a run's page of
rows (pure).
"""

from perdure.sdk.hindsight.asking import Hindsight

__all__ = ["Hindsight"]
