"""A stand-in for gcloud: records its calls and plays a TPU slice whose machines are folders under $CLOUD.

$CLOUD/plan.json says what happens: "workers"; "create": refusals or "ok" for each creation; "queue": the states that a
request shows in turn; "events": what happens at the n-th poll (preempt, drop, reboot); "taken": the n-th look at the
slice's state finds it pre-empted.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

CLOUD = Path(os.environ["CLOUD"])
REFUSALS = {
    "capacity": 'ERROR: (gcloud) There is no more capacity in the zone "z"; you can try in another zone [EID: 0x1]',
    "quota": "ERROR: (gcloud) RESOURCE_EXHAUSTED: Quota limit 'TPUV5sLitepodPerProjectPerZone' has been exceeded.",
    "permission": "ERROR: (gcloud) PERMISSION_DENIED: Permission 'tpu.nodes.create' denied",
    "missing": "ERROR: (gcloud) NOT_FOUND: Resource 'projects/p/locations/z/nodes/n' was not found",
}


def write(name, values):
    """At once: a test may read it meanwhile."""
    (CLOUD / "part").write_text(json.dumps(values))
    (CLOUD / "part").replace(CLOUD / name)


def end(code, message=""):
    write("state.json", state)
    if message:
        print(message, file=sys.stderr if code else sys.stdout)
    sys.exit(code)


def home(worker):
    return CLOUD / f"w{worker}"


def make_node():
    state["node"] = "READY"
    for worker in range(plan["workers"]):
        home(worker).mkdir()


def kill_processes():
    for file in CLOUD.glob("w*/unireplknet_run/pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(file.read_text()), signal.SIGKILL)


def drop_node(what):
    kill_processes()
    for folder in CLOUD.glob("w[0-9]*"):
        shutil.rmtree(folder)
    state["node"] = what


def create():
    state["creations"] += 1
    outcome = plan["create"].pop(0) if plan["create"] else "ok"
    write("plan.json", plan)
    if outcome != "ok":
        end(1, REFUSALS[outcome])


def poll():
    state["polls"] += 1
    event = plan["events"].get(str(state["polls"]))
    if event == "preempt":
        drop_node("PREEMPTED")
        if state["request"]:
            plan["queue"][:0] = ["SUSPENDED"]
            write("plan.json", plan)
        end(1, "ERROR: (gcloud) this TPU has terminal state PREEMPTED")
    if event == "drop":
        end(255, "ssh: connect to host: Connection timed out")
    if event == "reboot":
        kill_processes()


def environment(worker):
    path = f"{CLOUD}/machine:{os.environ['PATH']}"
    names = {"HOME": home(worker), "PATH": path, "WORKER": worker, "CLOUD": CLOUD, "UNIREPLKNET_GRACE": 1}
    return {**{name: str(value) for name, value in names.items()}, "UNIREPLKNET_MOUNT": str(home(worker) / "data")}


def each(flags):
    return range(plan["workers"]) if flags["worker"] == "all" else [int(flags["worker"])]


def ssh(flags):
    if " poll" in flags["command"]:
        poll()
    code = 0
    for worker in each(flags):
        command = ["bash", "-c", flags["command"]]
        done = subprocess.run(command, env=environment(worker), cwd=home(worker), stdin=subprocess.DEVNULL, check=False)
        code = code or done.returncode
    end(code)


def describe_node():
    state["looks"] = state.get("looks", 0) + 1
    if state["looks"] == plan.get("taken"):
        drop_node("PREEMPTED")
    end(0, state["node"]) if state["node"] else end(1, REFUSALS["missing"])


def describe_request():
    if not state["request"]:
        end(1, REFUSALS["missing"])
    if plan["queue"]:
        state["request"] = plan["queue"].pop(0)
        write("plan.json", plan)
    if state["request"] == "ACTIVE" and not state["node"]:
        make_node()
    end(0, state["request"])


def main():
    words = sys.argv[1:]
    with (CLOUD / "calls").open("a") as calls:
        calls.write(json.dumps(["gcloud", *words]) + "\n")
    assert words[:2] == ["compute", "tpus"]
    group, verb, *rest = words[2:]
    flags = dict(word[2:].partition("=")[::2] for word in rest if word.startswith("--"))
    names = [word for word in rest if not word.startswith("--")]
    assert flags["zone"]
    if (group, verb) == ("tpu-vm", "describe"):
        describe_node()
    if (group, verb) == ("queued-resources", "describe"):
        describe_request()
    if verb == "create":
        create()
        if group == "tpu-vm":
            make_node()
        else:
            state["request"] = "WAITING_FOR_RESOURCES"
        end(0)
    if verb == "delete":
        if not state["node" if group == "tpu-vm" else "request"]:
            end(1, REFUSALS["missing"])
        drop_node(None)
        state["request"] = None
        end(0)
    if state["node"] != "READY":
        end(1, f"ERROR: (gcloud) the TPU is in state {state['node']}")
    if verb == "scp":
        for worker in each(flags):
            shutil.copy(names[0], home(worker) / names[1].partition(":")[2])
        end(0)
    if verb == "ssh":
        ssh(flags)
    raise SystemExit(f"the stand-in does not know {words}")


plan = json.loads((CLOUD / "plan.json").read_text())
state = json.loads((CLOUD / "state.json").read_text())
main()
