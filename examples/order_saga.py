"""An order as a saga: reserve, charge, ship; and if it fails or is cancelled on the way, undo what was done.

The handlers `on_failure` and `on_cancel` are runs of their own, with steps and retries. `ended.result` tells them what
the log has of the run. What the log cannot have is a step that was in flight at the cancel: it may have done its work,
and its result counts no more. Where that matters, as with money, undo by a key and not by a result.

    python examples/order_saga.py                        four orders with four fates, in a moment
    perdure dev examples.order_saga:app                  the same code, served

The bank and the warehouse are tables of the SQLite file that ORDERS_DB names (orders.db).
"""

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from msgspec import Struct

from perdure import App, Context, Ended, Event, EventType, NonRetriable, current_step

SCHEMA = """
CREATE TABLE IF NOT EXISTS payments (key TEXT PRIMARY KEY, cents INTEGER, state TEXT);
CREATE TABLE IF NOT EXISTS holds (key TEXT PRIMARY KEY, state TEXT);
"""


class Order(Struct):
    """What a customer has ordered."""

    id: str
    cents: int


class Receipt(Struct):
    """That a customer has paid."""

    charge_id: str


class CardDeclined(NonRetriable):
    """There is no point in asking again."""


class Bank:
    """Knows each payment by its key and refuses more than 1,000.00."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    async def pay(self, cents: int, key: str) -> str | None:
        """The id of the payment; the same for the same key. None: declined."""
        if cents > 100_000:
            return None
        self.db.execute("INSERT INTO payments VALUES (?, ?, 'paid') ON CONFLICT DO NOTHING", (key, cents))
        for (payment,) in self.db.execute("SELECT key FROM payments WHERE key = ? AND state = 'paid'", (key,)):
            return str(payment)
        return None

    async def refund(self, key: str) -> None:
        """Gives back what was paid under this key, and takes nothing under it any more. Twice is once."""
        self.db.execute("UPDATE payments SET state = 'refunded' WHERE key = ? AND state = 'paid'", (key,))
        self.db.execute("INSERT INTO payments VALUES (?, 0, 'void') ON CONFLICT DO NOTHING", (key,))


class Warehouse:
    """Holds goods for an order until they are shipped or released. Ships nothing while it is closed."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.closed = False

    async def reserve(self, key: str) -> str:
        """The id of the hold; the same for the same key."""
        self.db.execute("INSERT INTO holds VALUES (?, 'reserved') ON CONFLICT DO NOTHING", (key,))
        return key

    async def release(self, hold: str) -> None:
        """Puts the goods back on the shelf."""
        self.db.execute("UPDATE holds SET state = 'released' WHERE key = ?", (hold,))

    async def ship(self, hold: str) -> None:
        """Hands the goods to the carrier."""
        if self.closed:
            raise ConnectionError("the warehouse does not answer")
        self.db.execute("UPDATE holds SET state = 'shipped' WHERE key = ?", (hold,))


bank: Bank
warehouse: Warehouse


@asynccontextmanager
async def partners() -> AsyncGenerator[None]:
    """Connects to the bank and the warehouse, once in each process that runs steps."""
    global bank, warehouse
    db = sqlite3.connect(os.environ.get("ORDERS_DB", "orders.db"), isolation_level=None)
    db.executescript(SCHEMA)
    bank, warehouse = Bank(db), Warehouse(db)
    try:
        yield
    finally:
        db.close()


app = App("orders", lifespan=partners)

PLACED = EventType("order/placed", Order)


@app.step
async def reserve(order: Order) -> str:
    """The id of the hold in the warehouse."""
    return await warehouse.reserve(key=current_step().key)


@app.step
async def release(hold: str) -> None:
    """Undoes `reserve`."""
    await warehouse.release(hold)


@app.step
async def charge(order: Order) -> Receipt:
    """Asks the bank for the money: by the same key on every attempt, and one that `undo` knows."""
    current_step().logger.info("asks for %d cents of order %s", order.cents, order.id)
    paid = await bank.pay(order.cents, key=current_step().run_id)
    if paid is None:
        raise CardDeclined(order.id)
    return Receipt(paid)


@app.step
async def refund(key: str) -> None:
    """Undoes `charge`, however far it came."""
    await bank.refund(key)


@app.step(retries=20)
async def ship(order: Order, hold: str) -> str:
    """The parcel's number."""
    await warehouse.ship(hold)
    return f"parcel-{order.id}"


async def undo(ctx: Context, ended: Ended) -> None:
    """Runs after a failure, a timeout or a cancel, and takes back what had been done by then."""
    ctx.logger.info("undoes order run %s, which %s", ended.run_id, ended.status)
    await refund(ended.run_id)
    if hold := ended.result(reserve):
        await release(hold)


@app.function(on=PLACED, timeout="14d", on_failure=undo, on_cancel=undo)
async def fulfil(ctx: Context, event: Event[Order]) -> str:
    """Returns the parcel's number."""
    hold = await reserve(event.data)
    await charge(event.data)
    return await ship(event.data, hold)


async def main() -> None:
    """One order goes through; one is too expensive; the warehouse closes; one is cancelled, one never shipped."""
    from perdure.testing import TestEngine

    with tempfile.TemporaryDirectory() as folder:
        os.environ["ORDERS_DB"] = f"{folder}/orders.db"
        async with TestEngine(app) as engine:
            await engine.send(PLACED(Order("tea", cents=900)))
            await engine.send(PLACED(Order("piano", cents=900_000)))
            warehouse.closed = True
            cancelled = await engine.send(PLACED(Order("cup", cents=1_500)))
            await engine.send(PLACED(Order("kettle", cents=4_000)))
            for handle in await engine.runs(fulfil, event_id=cancelled):
                await handle.cancel(reason="the customer has changed her mind")
            await engine.finish()
            for run in engine.all_runs(fulfil):
                print(f"{run.id}  {run.status:9}  {run.error or run.output}")
            for name in ("payments", "holds"):
                print(name, *warehouse.db.execute(f"SELECT * FROM {name}"), sep="\n  ")


if __name__ == "__main__":
    asyncio.run(main())
