"""Files for container engines are checked against the schemas that those publish: no engine is at hand here.

Kubernetes' and that of Compose come with packages. KEDA's is in no package that can be had without more; its part that
is needed here lies beside this file.
"""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import ROOT, objects

# By name, since they bring no types.
jsonschema: Any = import_module("jsonschema")
kubernetes: Any = import_module("kubernetes_validate")
KUBERNETES = "1.37"


def check_compose(file: Path) -> str:
    """What is wrong with it."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr if done.returncode else ""


def check_object(one: dict[str, Any]) -> None:
    """Raises what is wrong with it."""
    if one["kind"] == "ScaledObject":
        jsonschema.validate(one, json.loads(Path(__file__).with_name("scaled_object.json").read_text()))
    else:
        kubernetes.validate(one, KUBERNETES, strict=True)


def test_compose_is_what_its_specification_says() -> None:
    assert check_compose(ROOT / "compose.yaml") == ""


def test_a_misspelt_setting_of_compose_is_found(tmp_path: Path) -> None:
    text = (ROOT / "compose.yaml").read_text()
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(text.replace("stop_grace_period", "stop_grace"))
    assert "stop_grace" in check_compose(wrong)


@pytest.mark.parametrize("name", objects(), ids="/".join)
def test_objects_are_what_kubernetes_and_keda_say(name: tuple[str, str]) -> None:
    check_object(objects()[name])


def test_misspelt_settings_of_objects_are_found() -> None:
    worker = objects()["StatefulSet", "shop-worker"]
    worker["spec"]["template"]["spec"]["terminationGracePeriod"] = 45
    with pytest.raises(kubernetes.ValidationError, match="terminationGracePeriod"):
        check_object(worker)
    scaled = objects()["ScaledObject", "shop-worker"]
    scaled["spec"]["maxReplicas"] = 12
    with pytest.raises(jsonschema.ValidationError, match="maxReplicas"):
        check_object(scaled)
