import math

from cachegen.simulation.station import Job, Station


def test_jobs_are_done_one_after_the_other():
    station: Station[str] = Station()
    assert (len(station), station.ends_s) == (0, math.inf)
    station.add(Job("a", 0, 2.0), 1.0)
    station.add(Job("b", 1, 0.5), 1.5)
    assert (len(station), station.ends_s) == (2, 3.0)
    assert station.finished(2.9) is None
    assert station.finished(3.0) == Job("a", 0, 2.0)
    assert station.ends_s == 3.5
    assert station.finished(3.5) == Job("b", 1, 0.5)
    assert (len(station), station.ends_s) == (0, math.inf)


def test_only_the_first_job_has_begun():
    station: Station[str] = Station()
    assert station.began_s("a") is None
    station.add(Job("a", 0, 2.0), 1.0)
    station.add(Job("b", 0, 2.0), 1.0)
    assert station.began_s("a") == 1.0
    assert station.began_s("b") is None


def test_a_job_that_takes_no_time_ends_at_once():
    station: Station[str] = Station()
    station.add(Job("a", 0, 0.0), 1.0)
    assert station.finished(1.0) is not None
