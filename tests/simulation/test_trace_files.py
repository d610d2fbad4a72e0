import json

import pytest

from cachegen.simulation.trace_files import (
    read_folder,
    read_traces,
    shipped_folder,
    shipped_names,
    shipped_trace,
)


def test_every_shipped_trace_varies():
    assert len(shipped_names()) >= 8
    for name in shipped_names():
        trace = shipped_trace(name)
        assert trace.name == name
        assert trace.period_s > 60.0
        assert max(trace.bytes_per_s) > 2 * min(trace.bytes_per_s)


def test_shipped_traces_are_small():
    assert sum(path.stat().st_size for path in shipped_folder().iterdir()) <= 150_000


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match=shipped_names()[0]):
        shipped_trace("nowhere")


def test_columns(tmp_path):
    path = tmp_path / "norway_bus_1"
    path.write_text("0.0\t8.0\n2.0\t16.0\n")
    (trace,) = read_traces(path)
    assert trace.name == "norway_bus_1"
    assert trace.bytes_per_s == (1e6, 2e6)


def test_csv_gives_a_trace_for_each_machine_in_the_order_of_time(tmp_path):
    path = tmp_path / "disk.csv"
    path.write_text(
        "value,runtime,starttime,VM_id\n"
        "2.0,91.0,2023-09-02 21:00:00,0\n1.0,90.0,2023-09-02 20:00:00,0\n4.0,90.0,2023-09-02,1\n"
    )
    first, second = read_traces(path)
    assert first.durations_s == (90.0, 91.0)
    assert first.bytes_per_s == pytest.approx((1024**2, 2 * 1024**2))
    assert second.name == "disk.csv 1"


def test_json_lines_give_a_trace_a_line(tmp_path):
    path = tmp_path / "bw.jsonl"
    path.write_text(json.dumps({"bw": [0.8, 8.0]}) + "\n" + json.dumps({"bw": [1.6]}) + "\n")
    first, second = read_traces(path)
    assert first.bytes_per_s == pytest.approx((1e8, 1e9))
    assert second.bytes_per_s == pytest.approx((2e8,))


@pytest.mark.parametrize("text", ("", "hello world\n", "1 2 3\n", "a,b\n1,2\n", '{"x": 1}\n'))
def test_anything_else_is_refused_with_the_name_of_the_file(tmp_path, text):
    path = tmp_path / "strange.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"strange\.txt is no bandwidth trace"):
        read_traces(path)


def test_a_folder_gives_all_of_its_files(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b").write_text("0 1\n1 2\n")
    (tmp_path / "a").write_text("0 1\n1 2\n")
    assert [trace.name for trace in read_folder(tmp_path)] == ["a", "b"]
    with pytest.raises(ValueError, match="expected a folder with traces"):
        read_folder(tmp_path / "nothing")
