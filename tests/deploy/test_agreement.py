"""What these files say in several places, and what the engine calls things, is one and the same."""

import re
import tomllib
from typing import Any

from perdure.duration import parse_ms
from perdure.log.kafka import parse
from tests.deploy.files import ROOT, compose, objects, option, pod_of

WORKER = "StatefulSet", "shop-worker"
GATEWAY = "Deployment", "shop-gateway"


def container(kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = pod_of(kind, name)["containers"][0]
    return found


def test_a_worker_is_given_longer_than_it_takes_to_stop() -> None:
    for service in compose()["services"].values():
        if "perdure" in service["image"]:
            grace_ms = parse_ms(option(service["command"], "grace"), what="grace")
            assert parse_ms(service["stop_grace_period"], what="stop_grace_period") >= grace_ms + 10_000
    for which in (WORKER, GATEWAY):
        grace_ms = parse_ms(option(container(*which)["args"], "grace"), what="grace")
        pause = container(*which).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert pod_of(*which)["terminationGracePeriodSeconds"] * 1000 >= grace_ms + pause * 1000 + 10_000


def test_what_is_waited_for_has_a_health_check() -> None:
    services = compose()["services"]
    for service in services.values():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in services[other]


def test_each_worker_of_compose_has_a_volume_of_its_own() -> None:
    data = [
        next(volume for volume in service["volumes"] if volume.endswith(":/data"))
        for name, service in compose()["services"].items()
        if name.startswith("worker")
    ]
    assert len(data) == len(set(data)) == 2
    assert {volume.partition(":")[0] for volume in data} < set(compose()["volumes"])


def test_probes_ask_where_the_worker_answers() -> None:
    worker = container(*WORKER)
    ports = {port["name"]: port["containerPort"] for port in worker["ports"]}
    assert option(worker["args"], "health-port") == str(ports["health"])
    assert worker["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert worker["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}


def test_gateways_show_the_history_that_workers_write() -> None:
    histories = [
        next(one["valueFrom"] for one in container(*which)["env"] if one["name"] == "PERDURE_HISTORY")
        for which in (WORKER, GATEWAY)
    ]
    assert histories[0] == histories[1]
    gateway = compose()["services"]["gateway"]
    volumes = dict(volume.split(":")[:2][::-1] for volume in gateway["volumes"])
    assert volumes[option(gateway["command"], "data")] in compose()["volumes"]


def test_the_state_lies_on_the_volume() -> None:
    worker = container(*WORKER)
    mounts = {mount["mountPath"]: mount["name"] for mount in worker["volumeMounts"]}
    claims = {claim["metadata"]["name"] for claim in objects()[WORKER]["spec"]["volumeClaimTemplates"]}
    assert mounts[option(worker["args"], "data")] in claims


def test_it_scales_by_groups_and_topics_that_there_are_to_the_partitions_that_there_are() -> None:
    spec = objects()["ScaledObject", "shop-worker"]["spec"]
    assert (spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]) == WORKER
    assert str(spec["maxReplicaCount"]) == option(container(*WORKER)["args"], "partitions")
    kafka = next(trigger["metadata"] for trigger in spec["triggers"] if trigger["type"] == "kafka")
    address = parse(f"kafka://{kafka['bootstrapServers']}")
    assert kafka["topic"] == address.topic("events")
    assert kafka["consumerGroup"] == address.topic("shop", "ingest")


def test_selectors_find_their_pods() -> None:
    pods = [
        one["spec"]["template"]["metadata"]["labels"] for one in objects().values() if "template" in one.get("spec", {})
    ]
    for (kind, name), one in objects().items():
        match kind:
            case "Service":
                wanted = one["spec"]["selector"]
            case "PodDisruptionBudget" | "StatefulSet" | "Deployment":
                wanted = one["spec"]["selector"]["matchLabels"]
            case "NetworkPolicy":
                wanted = one["spec"]["podSelector"]["matchLabels"]
            case _:
                continue
        assert sum(wanted.items() <= labels.items() for labels in pods) == 1, f"{kind} {name}"


def test_the_image_has_what_the_dockerfile_copies() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in line.split()}
    let_through = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert copied == let_through
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    built = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {package.partition("/")[0] for package in built} | {
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
    }
    assert copied == needed
    extras = re.search(r"/src\[(.+)\]", text)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(project["project"]["optional-dependencies"])
