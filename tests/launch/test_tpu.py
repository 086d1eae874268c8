"""launch/tpu.sh against a stand-in for gcloud that really runs the commands on its machines, which are folders."""

import json
import shlex
import signal

import pytest
from cloud import PLACE, READS, TRAIN, check_error
from stand_ins import write_script


def test_a_run_from_creation_to_deletion(cloud):
    cloud.train("echo step 1 of worker $WORKER; pwd; ls -A; exit 0")
    done = cloud.run_training()
    assert done.returncode == 0, done.stderr
    assert cloud.verbs("describe") == ["tpu-vm create", "tpu-vm scp", "tpu-vm ssh", "tpu-vm delete"]
    create = next(call for call in cloud.calls if call[4] == "create")
    assert " ".join(create) == (
        "gcloud compute tpus tpu-vm create n --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite --zone=z"
    )
    assert [cloud.arguments(worker) for worker in (0, 1)] == [["auto", *TRAIN]] * 2
    assert cloud.state["node"] is None
    assert "step 1 of worker 0" in done.stdout
    assert "worker 1" not in done.stdout
    listed = done.stdout.splitlines()
    assert {"not added.py", "configs", "launch", ".gitignore"} <= set(listed)
    assert "big.ignored" not in listed
    assert "--editable" in (cloud.folder / "pip.1").read_text()
    assert "jax[tpu]" in (cloud.folder / "pip.1").read_text()


def test_arguments_arrive_as_they_were_written(cloud):
    hard = ["--config.name=two words", "--config.a='$HOME' \"x\" `ls` \\ * ;", "--config.b=one\ntwo  three", ""]
    assert cloud.run_training(arguments=[*TRAIN, *hard]).returncode == 0
    assert cloud.arguments(1) == ["auto", *TRAIN, *hard]


def test_dry_run_prints_every_command_and_calls_nothing(cloud):
    options = ["--spot", "--project", "p", "--bucket", "gs://b/a folder", "--cache-mb", "100"]
    arguments = [*TRAIN, *READS, "--config.name=two words"]
    dry = cloud.run_training("--dry-run", *options, arguments=arguments)
    assert dry.returncode == 0, dry.stderr
    assert cloud.calls == []
    printed = [shlex.split(line) for line in dry.stdout.splitlines() if line.startswith("gcloud ")]
    assert cloud.run_training(*options, arguments=arguments).returncode == 0
    packed = "unireplknet.tar.gz"  # in a temporary folder of each run
    strip = lambda call: [packed if word.endswith(f"/{packed}") else word for word in call]  # noqa: E731
    real = [strip(call) for call in cloud.calls]
    counts = [word for call in real for word in call if " log " in word]  # which line comes next is known only in a run
    missing = [call for call in real if call not in [strip(call) for call in printed] and not set(call) & set(counts)]
    assert missing == []
    assert counts


def test_dry_run_needs_no_gcloud(cloud):
    (cloud.tools / "gcloud").unlink()
    assert cloud.run_training("--dry-run", "--queued").returncode == 0


def test_keep_leaves_the_slice_and_says_what_it_costs(cloud):
    done = cloud.run_training("--keep")
    assert done.returncode == 0
    assert cloud.state["node"] == "READY"
    assert "delete" not in cloud.verbs()[-1]
    assert "billed" in done.stderr
    command = shlex.split(done.stderr[done.stderr.index(": ") + 2 :])
    assert cloud.run(*command[1:]).returncode == 0
    assert cloud.state["node"] is None


def test_preemption_recreates_the_slice_and_resumes(cloud):
    cloud.plan(events={"4": "preempt"})
    cloud.train("if [[ $ATTEMPT == 1 ]]; then exec sleep 60; fi; echo resumed")
    done = cloud.run_training("--spot")
    assert done.returncode == 0, done.stderr
    assert cloud.state["creations"] == 2
    assert [call[-2] for call in cloud.calls if call[4] == "create"] == ["--spot", "--spot"]
    assert [len(cloud.started(worker)) for worker in (0, 1)] == [2, 2]
    assert cloud.arguments(0, 2) == cloud.arguments(0, 1)
    assert "PREEMPTED" in done.stdout
    assert "resumed" in done.stdout
    assert cloud.state["node"] is None


def test_peers_that_fail_as_a_machine_is_told_to_stop(cloud):
    cloud.train("if [[ $ATTEMPT == 1 ]]; then [[ $WORKER == 0 ]] && exit 134; exit 75; fi")
    # Worker 0 may be seen to fail first: then the second look decides.
    done = cloud.run_training()
    assert done.returncode == 0, done.stderr
    assert [len(cloud.started(worker)) for worker in (0, 1)] == [2, 2]


# The first two looks are before and after the creation.
@pytest.mark.parametrize("look", [pytest.param(3, marks=pytest.mark.slow), 4])
def test_failures_just_before_the_slice_is_taken_away(cloud, look):
    cloud.plan(taken=look)
    cloud.train("[[ $ATTEMPT -gt 1 ]] || exit 1")
    done = cloud.run_training()
    assert done.returncode == 0, done.stderr
    assert cloud.state["creations"] == 2


def test_a_preemption_while_it_is_prepared(cloud):
    cloud.train("exit 0")
    ssh = cloud.tools / "gcloud"
    real = ssh.read_text().splitlines()[1].removeprefix("exec ")
    # The first installation fails since the machines go away under it.
    write_script(
        ssh,
        f"""
if [[ "$*" == *install* && ! -e $CLOUD/once ]]; then
  touch() {{ : >"$1"; }}
  touch "$CLOUD/once"
  set -- "${{@/--command=*/--command=x poll}}"
fi
exec {real}""",
    )
    cloud.plan(events={"1": "preempt"})
    done = cloud.run_training()
    assert done.returncode == 0, done.stderr
    assert cloud.state["creations"] == 2


@pytest.mark.slow
def test_more_interruptions_than_allowed(cloud):
    cloud.train("exit 75")
    done = cloud.run_training("--max-restarts", "2")
    check_error(done, "interrupted 3 times", "--max-restarts 2")
    assert len(cloud.started(0)) == 3
    assert "launch/tpu.sh' delete --name n --zone z" in done.stderr


def test_a_saved_run_starts_again_on_the_same_slice(cloud):
    cloud.train("[[ $ATTEMPT -gt 1 ]] || exit 75; sleep 1")
    done = cloud.run_training()
    assert done.returncode == 0, done.stderr
    assert cloud.state["creations"] == 1
    assert [len(cloud.started(worker)) for worker in (0, 1)] == [2, 2]


@pytest.mark.slow  # `test_a_dropped_connection_is_no_lost_run` stays
def test_a_machine_that_does_not_answer_is_not_taken_to_be_done(cloud):
    # Machine 1 cannot tell its number at the first two polls.
    blind = """
if [[ $WORKER == 1 && -e $CLOUD/args.1.1 && ! -e $CLOUD/blind2 ]]; then
  if [[ -e $CLOUD/blind1 ]]; then : >"$CLOUD/blind2"; else : >"$CLOUD/blind1"; fi
  exit 6
fi
echo "$WORKER"
"""
    write_script(cloud.folder / "machine" / "curl", blind)
    cloud.train('[[ $WORKER == 0 ]] || { sleep 1.5; : >"$CLOUD/finished"; }')
    done = cloud.run_training()
    assert done.returncode == 0, done.stderr
    assert (cloud.folder / "finished").exists()
    assert (cloud.folder / "blind2").exists()


@pytest.mark.slow  # `test_preemption_recreates_the_slice_and_resumes` stays
def test_a_machine_that_was_restarted_resumes(cloud):
    cloud.plan(events={"3": "reboot"})
    cloud.train("if [[ $ATTEMPT == 1 ]]; then exec sleep 60; fi")
    done = cloud.run_training()
    assert done.returncode == 0, done.stderr
    assert (cloud.state["creations"], len(cloud.started(1))) == (1, 2)


@pytest.mark.slow
def test_machines_that_wait_for_a_lost_one_are_stopped(cloud):
    cloud.train("if [[ $ATTEMPT == 1 && $WORKER == 0 ]]; then exec sleep 60; fi; [[ $ATTEMPT -gt 1 ]] || exit 75")
    done = cloud.run_training()
    assert done.returncode == 0, done.stderr
    assert [len(cloud.started(worker)) for worker in (0, 1)] == [2, 2]
    assert cloud.running() == []


def test_a_failing_worker_ends_the_run(cloud):
    cloud.train('if [[ $WORKER == 1 ]]; then echo "no such recipe"; exit 3; fi; exec sleep 60')
    done = cloud.run_training()
    check_error(done, "worker 1", code=3)
    assert "no such recipe" in done.stderr
    assert cloud.running() == []
    assert [len(cloud.started(worker)) for worker in (0, 1)] == [1, 1]
    assert cloud.state["creations"] == 1
    assert cloud.state["node"] == "READY"
    assert "launch/tpu.sh' delete --name n --zone z" in done.stderr


@pytest.mark.slow
def test_the_first_of_two_failures_is_shown(cloud):
    cloud.train("if [[ $WORKER == 1 ]]; then exit 3; fi; sleep 1.5; exit 134")
    check_error(cloud.run_training(), "worker 1", code=3)


def test_a_dropped_connection_is_no_lost_run(cloud):
    cloud.plan(events={"2": "drop", "3": "drop"})
    cloud.train("while [[ ! -e $CLOUD/enough ]]; do sleep 0.02; done; echo fine")
    process = cloud.begin()
    cloud.wait_for(lambda: cloud.state["polls"] > 4)
    (cloud.folder / "enough").touch()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "fine" in out
    assert len(cloud.started(0)) == 1


def test_ctrl_c_leaves_the_run_and_the_same_command_follows_it(cloud):
    cloud.train("while [[ ! -e $CLOUD/enough ]]; do sleep 0.02; done")
    process = cloud.begin()
    cloud.wait_for(lambda: cloud.state["polls"] > 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on" in err
    assert "billed until it is deleted" in err
    assert "launch/tpu.sh' delete --name n --zone z" in err
    assert cloud.running() == [0, 1]
    polls = cloud.state["polls"]
    process = cloud.begin()
    cloud.wait_for(lambda: cloud.state["polls"] > polls + 1)
    (cloud.folder / "enough").touch()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "following it" in out
    assert len(cloud.started(0)) == 1
    assert cloud.state["node"] is None


def test_without_quota_it_stops_at_once(cloud):
    cloud.plan(create=["quota"])
    done = cloud.run_training()
    check_error(done, "no quota for v5litepod-16 in z")
    assert "TPUV5sLitepodPerProjectPerZone" in done.stderr
    assert cloud.state["creations"] == 1
    assert "billed" not in done.stderr


def test_a_refusal_for_another_reason_is_shown(cloud):
    cloud.plan(create=["permission"])
    done = cloud.run_training()
    check_error(done, "could not be created")
    assert "PERMISSION_DENIED" in done.stderr
    assert cloud.state["creations"] == 1


def test_it_waits_for_capacity(cloud):
    cloud.plan(create=["capacity", "capacity"])
    done = cloud.run_training()
    assert done.returncode == 0, done.stderr
    assert cloud.state["creations"] == 3
    assert done.stdout.count("no v5litepod-16 is free in z") == 2


def test_it_does_not_wait_for_capacity_for_ever(cloud):
    cloud.plan(create=["capacity"] * 20)
    check_error(cloud.run_training("--spot"), "no free v5litepod-16 (spot)", "--queued")
    assert cloud.state["creations"] == 12


class TestQueued:
    """--queued: a request in Google's queue."""

    def test_it_waits_for_its_turn(self, cloud):
        cloud.plan(queue=["WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
        done = cloud.run_training("--queued", "--spot", "--wait", "6h")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("is WAITING_FOR_RESOURCES") == 1
        (create,) = (call for call in cloud.calls if call[4] == "create")
        assert " ".join(create) == (
            "gcloud compute tpus queued-resources create n --node-id=n --accelerator-type=v5litepod-16 "
            "--runtime-version=v2-alpha-tpuv5-lite --spot --valid-until-duration=6h --zone=z"
        )
        delete = "gcloud compute tpus queued-resources delete n --force --quiet --zone=z"
        assert " ".join(cloud.calls[-1]) == delete
        assert cloud.state["request"] is None

    @pytest.mark.slow
    def test_preemption_makes_a_new_request(self, cloud):
        cloud.plan(queue=["ACTIVE"], events={"3": "preempt"})
        cloud.train("if [[ $ATTEMPT == 1 ]]; then exec sleep 60; fi")
        state = cloud.folder / "plan.json"
        process = cloud.begin("--queued")
        cloud.wait_for(lambda: cloud.state["creations"] == 2)
        plan = json.loads(state.read_text())
        state.write_text(json.dumps({**plan, "queue": ["ACTIVE"]}))
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert len(cloud.started(0)) == 2

    def test_a_request_that_waits_keeps_its_place(self, cloud):
        cloud.write("state.json", node=None, request="WAITING_FOR_RESOURCES", polls=0, creations=0)
        cloud.plan(queue=["WAITING_FOR_RESOURCES", "ACTIVE"])
        assert cloud.run_training("--queued").returncode == 0
        assert cloud.state["creations"] == 0
        assert "queued-resources create" not in cloud.verbs()

    def test_a_request_that_failed_is_removed(self, cloud):
        cloud.plan(queue=["WAITING_FOR_RESOURCES", "FAILED", "state: FAILED, Quota limit exceeded"])
        check_error(cloud.run_training("--queued"), "no quota for v5litepod-16")
        assert cloud.state["request"] is None


def test_bucket_is_mounted_read_only(cloud):
    assert (
        cloud.run_training("--bucket", "gs://b/a folder/", "--cache-mb", "100", arguments=[*TRAIN, *READS]).returncode
        == 0
    )
    options = (cloud.folder / "gcsfuse.1").read_text().splitlines()
    assert options[-2:] == ["b", str(cloud.folder / "w1" / "data")]
    assert options[options.index("--only-dir") + 1] == "a folder"
    assert options[options.index("-o") + 1] == "ro"
    assert "--file-cache-max-size-mb=100" in options


def test_a_whole_bucket_without_cache(cloud):
    assert cloud.run_training("--bucket", "gs://b", arguments=[*TRAIN, *READS]).returncode == 0
    options = (cloud.folder / "gcsfuse.0").read_text().splitlines()
    assert options[-2] == "b"
    assert not [word for word in options if "only-dir" in word or "cache-dir" in word]


def test_what_cannot_be_installed_is_said_and_tried_three_times(cloud):
    write_script(cloud.folder / "machine" / "gcsfuse", "echo no permission >&2; exit 1")
    done = cloud.run_training("--bucket", "gs://b", arguments=[*TRAIN, *READS])
    check_error(done, "could not be started")
    assert "gs://b could not be mounted" in done.stderr
    assert len([call for call in cloud.calls if call[4] == "scp"]) == 3
    assert cloud.started(0) == []


def test_status_logs_and_commands(cloud):
    cloud.train("echo hello from $WORKER")
    assert cloud.run_training("--keep").returncode == 0
    status = cloud.run("status", *PLACE)
    assert status.stdout.splitlines()[0] == "READY"
    assert "status 1 exited 0 " in status.stdout
    done = cloud.run("ssh", *PLACE, "--worker", "1", "--", "echo", "$WORKER; exit 4")
    assert (done.stdout.strip(), done.returncode) == ("1", 4)
    write_script(cloud.folder / "machine" / "tail", 'cat "${@: -1}"')  # the real one would follow the log for ever
    assert "hello from 1" in cloud.run("logs", *PLACE, "--worker", "1").stdout
    assert cloud.run("delete", *PLACE).returncode == 0
    check_error(cloud.run("delete", *PLACE), "could not be deleted")
