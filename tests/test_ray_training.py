"""Training on Ray, by LLaMA-Factory's `USE_RAY=1`: what is asked of Ray, and that two workers train as one process does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from runs import arguments, largest_difference, train, weights, write_data

from spacevllm_plugin.data.schema import read_rows
from spacevllm_plugin.data.synthetic import SynthConfig, write_set
from spacevllm_plugin.integration import compatibility
from spacevllm_plugin.integration import ray as hook


ROOT = Path(__file__).parents[1]
TUNER = "llamafactory.train.tuner"


@pytest.mark.parametrize(
    "nodes, device, workers, cpus",
    [
        ([{"CPU": 128, "GPU": 8}], "GPU", 8, 10),  # LLaMA-Factory's number where it can be had
        ([{"CPU": 32, "GPU": 8}], "GPU", 8, 4),
        ([{"CPU": 32, "GPU": 8}], "GPU", 2, 10),
        ([{"CPU": 8}, {"CPU": 20, "GPU": 4}, {"CPU": 12, "GPU": 4}], "GPU", 8, 3),  # a head without GPUs
        ([{"CPU": 64, "GPU": 4}, {"CPU": 12, "GPU": 4}], "GPU", 5, 10),  # all but one on the larger node
        ([{"CPU": 2}], "CPU", 2, 1),
        ([{"CPU": 4}, {"CPU": 4}], "CPU", 2, 4),
        ([{"CPU": 4}, {"CPU": 4}], "CPU", 3, 2),
    ],
)
def test_workers_get_what_the_nodes_have(nodes, device, workers, cpus):
    assert hook.cpus_for_each(nodes, device, workers) == cpus


def test_more_workers_than_there_is_room_for_is_said_at_once():
    with pytest.raises(ValueError, match="no room for 5 workers .* 8 GPU, 4 CPU; 0 GPU, 16 CPU"):
        hook.cpus_for_each([{"CPU": 4, "GPU": 8}, {"CPU": 16}], "GPU", 5)


@pytest.mark.parametrize(
    "args, template",
    [
        ({"template": "spacevllm", "stage": "sft"}, "spacevllm"),
        ({"stage": "sft"}, None),
        (["--stage", "sft", "--template", "spacevllm", "--do_train"], "spacevllm"),
        (["--template=qwen2_vl"], "qwen2_vl"),
        (["--stage", "sft"], None),
    ],
)
def test_the_template_is_found_in_recipes_and_command_lines(args, template):
    assert hook.template_of(args) == template


def other_tuner(folder, text):
    """A module by the name of LLaMA-Factory's, of another source."""
    (folder / "tuner.py").write_text(text)
    spec = spec_from_file_location(TUNER, folder / "tuner.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


AS_IT_IS = """
def get_placement_group(num_workers):
    bundle = {"CPU": 10}

def get_ray_remote_config_for_worker(placement_group: str, bundle_idx: int, rank: int, env: dict):
    return {"num_cpus": 10}

def get_ray_head_node_ip(): ...

def _ray_training_function(ray_args: object, config):
    get_ray_head_node_ip()
    get_placement_group(total_devices)
"""


@pytest.mark.parametrize(
    "old, new",
    [
        ("get_placement_group(total_devices)", "get_placement_group(num_workers)"),
        ('bundle = {"CPU": 10}', 'bundle = {"CPU": 1}'),
        ("def get_ray_remote_config_for_worker", "def another_name"),
    ],
)
def test_a_llamafactory_that_does_it_otherwise_is_left_alone(tmp_path, old, new):
    module = other_tuner(tmp_path, AS_IT_IS)
    before = module._ray_training_function
    hook.install(module)
    assert module._ray_training_function is not before
    module = other_tuner(tmp_path, AS_IT_IS.replace(old, new))
    before = module._ray_training_function
    hook.install(module)
    assert module._ray_training_function is before


def test_the_installed_llamafactory_is_one_that_we_mend():
    from llamafactory.train import tuner

    if find_spec("ray") is None:
        pytest.skip("extra `ray`")

    assert compatibility.still_does(tuner) and hasattr(tuner._ray_training_function, "__wrapped__")


def test_a_driver_without_gpus_reserves_the_clusters(monkeypatch):
    """On the head of a cluster whose GPUs are on another node: there the workers meet, not here."""
    ray = pytest.importorskip("ray")
    from llamafactory.train import tuner

    head = {"NodeID": "a", "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 64.0}}
    node = {"NodeID": "b", "NodeManagerAddress": "10.0.0.2", "Resources": {"CPU": 8.0, "GPU": 2.0}}
    asked = []
    monkeypatch.setattr(hook, "_alive", lambda: [head, node])
    monkeypatch.setattr(ray.util, "placement_group", lambda bundles, strategy: asked.extend(bundles))
    monkeypatch.setattr(ray.util, "placement_group_table", lambda group: {"bundles_to_node_id": {0: "b", 1: "b"}})
    placement = hook.Placement(tuner, 2)
    _, bundle = placement.get_placement_group(64)
    assert asked == [bundle, bundle] and bundle == {"CPU": 4, "GPU": 1}
    common = {"placement_group": None, "world_size": 2, "master_addr": "10.0.0.1", "master_port": "1"}
    for rank in (0, 1):
        config = placement.get_ray_remote_config_for_worker(rank=rank, bundle_idx=1 - rank, env={"A": "b"}, **common)
        assert (config["num_cpus"], config["num_gpus"]) == (4, 1)
        told = config["runtime_env"]["env_vars"]
        assert told["MASTER_ADDR"] == "10.0.0.2" and told["RANK"] == str(rank) and told["A"] == "b"
        assert Path(told[hook.PACKAGE_PATH], "spacevllm_plugin") == Path(hook.__file__).parents[1]

    # What Ray tells the driver of a job is not for the workers; what a user tells all is.
    for env, left in (({hook.DRIVERS_OWN[0]: "1", hook.IN_A_JOB: "{}"}, False), ({hook.DRIVERS_OWN[0]: "1"}, True)):
        config = placement.get_ray_remote_config_for_worker(rank=1, bundle_idx=0, env=env, **common)
        assert (hook.DRIVERS_OWN[0] in config["runtime_env"]["env_vars"]) == left


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An environment with this checkout installed in place, its `.pth` file included, and the tests' dependencies."""
    folder = tmp_path_factory.mktemp("ray") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    # A path line makes packages importable; the `.pth` files in that folder, ours among them, are not read again.
    (site / "dependencies.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    shutil.copy(ROOT / "spacevllm_plugin_hooks.pth", site)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def shadow(tmp_path_factory):
    """A working directory with another package of our name, which hooks nothing."""
    folder = tmp_path_factory.mktemp("shadow")
    package = folder / "spacevllm_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "bootstrap.py").write_text("def install(): pass\n")
    return folder


def test_workers_import_the_package_that_they_are_told(python, shadow):
    """Whatever comes first on their path; where there is none at that place, the path decides as ever."""
    code = "import spacevllm_plugin, sys; print(spacevllm_plugin.__file__, sys.path.count(sys.argv[1]))"

    def found(told):
        env = {**os.environ, "PYTHONPATH": str(shadow), hook.PACKAGE_PATH: told}
        said = subprocess.run([python, "-c", code, told], env=env, capture_output=True, text=True, check=True)
        return said.stdout.split()

    assert found(str(ROOT)) == [str(ROOT / "spacevllm_plugin" / "__init__.py"), "1"]
    assert found("/nowhere") == [str(shadow / "spacevllm_plugin" / "__init__.py"), "0"]


# Run by the driver. Both workers say where they are, and other templates' runs get LLaMA-Factory's own placement.
LAUNCH = """
import json, os, sys
from pathlib import Path
from llamafactory.train import tuner
from ray.util import get_node_ip_address
from transformers import TrainerCallback

class Say(TrainerCallback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_begin(self, args, state, control, **kwargs):
        import spacevllm_plugin
        beside = Path("spacevllm_plugin", "bootstrap.py").read_text()
        said = {"package": spacevllm_plugin.__file__, "beside": beside, "world": os.environ["WORLD_SIZE"]}
        Path(self.folder, f"worker{os.environ['RANK']}.json").write_text(json.dumps(said))

class Stock(Exception):
    pass

def stock(total_devices):
    raise Stock(total_devices)

if __name__ == "__main__":
    run = json.load(open(sys.argv[1]))
    tuner.get_placement_group = stock
    try:
        # Left to itself it would ask the dashboard where the head is.
        tuner.run_exp({**run, "template": "qwen3_vl", "master_addr": get_node_ip_address()})
    except Stock as err:
        print("Ray has started; LLaMA-Factory's own placement for", err, flush=True)

    tuner.run_exp(run, callbacks=[Say(sys.argv[2])])
    assert tuner.get_placement_group is stock
"""
SETTINGS = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "USE_RAY": "1", "CUDA_VISIBLE_DEVICES": ""}


def drive(python, script, *args):
    """Run a driver that starts a cluster of its own, again where Ray itself does not start, as happens under load.

    Whatever is left of a cluster is of the driver's process group.
    """
    dropped = ("PYTHONPATH", "RAY_ADDRESS")
    for _ in range(4):
        folder = tempfile.mkdtemp(prefix="ray")  # a short name: sockets lie in it
        env = {key: value for key, value in os.environ.items() if key not in dropped}
        env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_TMPDIR": folder, **SETTINGS}
        driver = subprocess.Popen(
            [python, str(script), *map(str, args)],
            env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        said, _ = driver.communicate()
        try:
            os.killpg(driver.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

        shutil.rmtree(folder, ignore_errors=True)
        if "Ray has started" in said:
            break

    assert driver.returncode == 0, said[-5000:]
    return said


@pytest.mark.ray
def test_two_workers_train_as_one_process(python, shadow, tiny_base, tmp_path):
    """With accumulation, fresh processes, and a working directory of theirs that holds another package of our name."""
    pytest.importorskip("ray")
    data = tmp_path / "data"
    write_set(data, SynthConfig(num_videos=4, seed=3, tasks=("stvg", "vtg", "rec", "qa")))
    write_data(data, [row.model_dump(exclude_none=True) for row in read_rows(data / "annotations.jsonl")][:16])
    common = {"dataset": "rows", "max_steps": 2, "optim": "sgd", "learning_rate": 0.05, "presence_head": True}
    common |= {"gradient_accumulation_steps": 2}
    base = tiny_base("qwen3_vl")
    log = train(base, data, tmp_path / "one", per_device_train_batch_size=4, **common)

    cluster = {"address": "local", "num_cpus": 2, "object_store_memory": 10**8, "include_dashboard": False}
    cluster["runtime_env"] = {"working_dir": str(shadow)}
    more = {"ray_num_workers": 2, "ray_init_kwargs": cluster, "ddp_backend": "gloo", "data_shared_file_system": True}
    run = arguments(base, data, tmp_path / "two", per_device_train_batch_size=2, **common, **more)
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "launch.py").write_text(LAUNCH)
    said = drive(python, tmp_path / "launch.py", tmp_path / "run.json", tmp_path)
    assert "LLaMA-Factory's own placement for 2" in said

    for rank in (0, 1):
        worker = json.loads((tmp_path / f"worker{rank}.json").read_text())
        assert worker == {
            "package": str(ROOT / "spacevllm_plugin" / "__init__.py"), "beside": "def install(): pass\n", "world": "2"
        }  # fmt: skip

    for a, b in zip(log[:2], json.loads((tmp_path / "two" / "trainer_state.json").read_text())["log_history"][:2]):
        for part in ("loss", "loss_lm", "loss_l1", "loss_giou", "loss_presence"):
            assert a[part] == pytest.approx(b[part], rel=2e-4), (part, a["step"])

    assert largest_difference(weights(tmp_path / "one"), weights(tmp_path / "two")) < 2e-5
