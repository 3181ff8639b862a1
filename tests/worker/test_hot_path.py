"""What every step passes through stays quick to reach."""

from pathlib import Path

from perdure import App, Engine
from perdure.log.embedded import EmbeddedLog

FAST = 29
"""CPython 3.11 keeps so many attributes of an instance where what it learnt of another tells it to look."""
app = App("hot")


async def test_what_every_step_comes_through_has_few_attributes(tmp_path: Path) -> None:
    async with Engine(app, log=f"embedded://{tmp_path}/log") as engine:
        node = engine.nodes[0]
        processor = node.processors[0]
        for one in (node.worker, processor, processor.view, processor.view.lines):
            assert len(vars(one)) <= FAST, type(one)
        assert isinstance(node.log, EmbeddedLog)
        assert not hasattr(node.log, "__dict__")
