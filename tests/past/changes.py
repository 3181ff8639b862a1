"""Apps that differ in their triggers, rules and options, and a past that each of them could have lived."""

from collections.abc import Mapping
from datetime import timedelta
from random import Random
from typing import Any

from perdure import App, CancelOn, Context, Event, Trigger
from perdure.past.reading import read_tape
from perdure.past.tape import Tape
from perdure.testing import TestEngine

Options = Mapping[str, Any]
Shape = Mapping[str, Options]
"""Function → its options; `on` or `cron` among them."""

NAMES = ("cart/added", "cart/bought", "user/left")
_WHERES = (None, "event.data.total > 200", "event.data.cart != 1", "event.data.total >= 100 && event.user.vip == true")
_RULES = (
    CancelOn("cart/bought", match="data.cart"),
    CancelOn("cart/added", match="data.cart"),
    CancelOn("user/left"),
    CancelOn("user/left", match={"data.cart": 2}),
    CancelOn("cart/bought", where="async.data.total > event.data.total"),
    CancelOn("cart/bought", match="data.cart", where="async.data.total > 300"),
    CancelOn("cart/bought", match="data.cart", timeout="40m"),
)
_CRONS = ("0 * * * *", "*/20 * * * *", "30 1 * * *")


def app_of(shape: Shape) -> App:
    """Its runs sleep until something ends them, but `echo`, which sends an event for each that it gets."""
    app = App("shop")
    for name, options in shape.items():
        rest = {key: value for key, value in options.items() if key not in ("on", "cron")}
        if "cron" in options:
            app.cron(options["cron"], id=name, **rest)(_ticks)
        else:
            app.function(on=options["on"], id=name, **rest)(_stays)
    app.function(on="echo/wanted", id="echo")(_echoes)
    return app


async def _stays(ctx: Context, event: Event[dict[str, Any]]) -> None:
    await ctx.sleep("300d")


async def _ticks(ctx: Context) -> None:
    await ctx.sleep("300d")


async def _echoes(ctx: Context, event: Event[dict[str, Any]]) -> None:
    await ctx.send("user/left", event.data)


async def _tells(ctx: Context, ended: Any) -> None:
    await ctx.sleep("300d")


def random_shape(rng: Random) -> Shape:
    return {f"f{n}": _options(rng) for n in range(4) if rng.random() < 0.8}


def _options(rng: Random) -> Options:
    options: dict[str, Any] = {}
    if rng.random() < 0.2:
        options["cron"] = rng.choice(_CRONS)
    else:
        names = rng.sample([*NAMES, "cart/*"], rng.choice((1, 1, 2)))
        wheres = [rng.choice(_WHERES) for _ in names]
        options["on"] = [
            Trigger(name, where=where) if where else name for name, where in zip(names, wheres, strict=True)
        ]
        if rng.random() < 0.7:
            options["cancel_on"] = tuple(rng.sample(_RULES, rng.choice((1, 1, 2))))
    if rng.random() < 0.3:
        options["timeout"] = rng.choice(("25m", "1h", "3h"))
    if rng.random() < 0.3:
        options["on_cancel"] = _tells
    return options


async def lived(shape: Shape, rng: Random, events: int = 20) -> Tape:
    """The log of some hours. The same `rng` sends the same events."""
    async with TestEngine(app_of(shape)) as engine:
        for _ in range(events):
            data = {"cart": rng.randrange(3), "total": rng.randrange(5) * 100}
            user = {"vip": rng.random() < 0.5}
            later = engine.now + timedelta(minutes=10) if rng.random() < 0.1 else None
            await engine.send_many([Event(rng.choice((*NAMES, *NAMES, "echo/wanted")), data, user=user, ts=later)])
            await engine.advance(f"{rng.randrange(1, 30)}m")
        await engine.send("the/end", {})
        return await read_tape(engine.log)
