"""A real Apache Kafka for tests: its own jars, one KRaft broker on a free port, in a directory of its own.

    python -m tests.kafka.broker FOLDER PID     runs one for as long as the process PID lives; its address is in
                                                FOLDER/bootstrap once it answers

`PERDURE_TEST_KAFKA=host:port` is taken instead, if it is set. Needs Java 17 and Maven otherwise.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

from tests.shared import locked, serve_while, shared

VERSION = "4.1.0"
START_SECONDS = 90
IN_MEMORY_BYTES = 4 << 30
_POM = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>perdure</groupId><artifactId>test-kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""
# Small waits, so that tests of rebalances and of members that died are short. One broker keeps one copy. Topics that
# are merely asked about come into being, as on any broker that nobody has told otherwise.
_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
num.partitions=1
auto.create.topics.enable=true
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
log.cleaner.backoff.ms=500
log.retention.check.interval.ms=1000
log.segment.delete.delay.ms=1000
"""


class NoKafka(Exception):
    """What is missing here, and how to get it."""


def jars() -> Path:
    """The folder with Kafka's jars; fetched once a machine."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "perdure-tests"
    folder = cache / f"kafka-{VERSION}"
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock"):
        if not folder.exists():
            _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            raise NoKafka(
                f"{tool} is missing: the tests on Kafka need Java 17 and Maven (Debian: apt install "
                "openjdk-17-jre-headless maven), or PERDURE_TEST_KAFKA=host:port of a broker that is there"
            )
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    (part / "pom.xml").write_text(_POM)
    command = ["mvn", "-q", "-B", "-f", str(part / "pom.xml"), "dependency:copy-dependencies"]
    done = subprocess.run([*command, f"-DoutputDirectory={part}"], capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise NoKafka(f"Maven could not fetch Kafka's jars: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    part.rename(folder)


def java_tool(main: str, *arguments: str) -> list[str]:
    """The command line of one of Kafka's own tools."""
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    return ["java", "-Xmx256m", quiet, "-cp", f"{jars()}/*", main, *arguments]


class Broker:
    """One broker. It keeps its port and its data over `kill` and `start`; `data` is in `folder` if not said."""

    def __init__(self, folder: Path, data: Path | None = None) -> None:
        self.folder = folder
        self._jars = jars()
        self.port, self._controller = _free_port(), _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        text = _PROPERTIES.format(port=self.port, controller=self._controller, data=data or folder / "data")
        (folder / "server.properties").write_text(text)
        made = self._java("kafka.tools.StorageTool", "format", "-t", uuid4().hex[:22], "-c")
        if made.wait(60):
            raise NoKafka(f"Kafka's storage could not be made: {self.said()}")

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when it answers."""
        self._process = self._java("kafka.Kafka")
        until = time.monotonic() + START_SECONDS
        while not _answers(self.port):
            if self._process.poll() is not None or time.monotonic() > until:
                raise NoKafka(f"the broker did not start: {self.said()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL: what it had not written is gone from its memory, but not from the machine's."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def said(self) -> str:
        return (self.folder / "said").read_text(errors="replace")[-2000:]

    def _java(self, main: str, *arguments: str) -> subprocess.Popen[bytes]:
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        heap = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
        command = ["java", *heap, quiet, "-cp", f"{self._jars}/*", main, *arguments]
        with open(self.folder / "said", "ab") as said:
            return subprocess.Popen(
                [*command, str(self.folder / "server.properties")], stdout=said, stderr=said, start_new_session=True
            )


def shared_broker(folder: Path) -> str:
    """The address of the broker that all workers of this test run share; the first that asks starts it."""
    given = os.environ.get("PERDURE_TEST_KAFKA")
    if given:
        return given
    jars()
    return shared(folder, "tests.kafka.broker", NoKafka)


def _keep(folder: Path, pid: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    data = _in_memory() or folder / "data"
    broker = Broker(folder / "broker", data)
    try:
        broker.start()
        serve_while(pid, folder, broker.bootstrap)
    finally:
        broker.kill()
        shutil.rmtree(data, ignore_errors=True)


def _in_memory() -> Path | None:
    """A folder that no disk is behind, if the machine has room: every topic that is made or deleted waits for an fsync,

    a thousand of them and more, while the other tests keep the disk busy; brokers stood still for half a minute.
    """
    memory = Path("/dev/shm")
    try:
        if shutil.disk_usage(memory).free > IN_MEMORY_BYTES:
            return Path(tempfile.mkdtemp(prefix="perdure-kafka-", dir=memory))
    except OSError:  # not on this system
        pass
    return None


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), int(sys.argv[2]))
