import itertools
import re

import pytest

from cachegen.evaluation.report.page import page
from cachegen.evaluation.report.palette import COLOURS
from cachegen.evaluation.results_json import read_result
from tests.evaluation.report import example
from tests.evaluation.report.reader import read

SECTIONS = ("quality", "scores", "ttft", "slo", "timeline", "ablation", "breakdown", "cost")


@pytest.fixture(scope="module")
def text():
    second = example.result("Other-2M", quick=True)
    return page([read_result(example.everything()), read_result(second)])


@pytest.fixture(scope="module")
def document(text):
    return read(text)


def test_it_opens_with_picture_table_paragraph(document):
    first = document.all("section")[0]
    kinds = [one.tag for one in first.all() if one.tag in ("svg", "table")]
    assert kinds[0] == "svg" and kinds[-1] == "table"
    lead = [one for one in first.all("p") if one.attributes.get("class") == "lead"]
    assert [one.all("strong")[0].text for one in lead] == ["Small-1M.", "Other-2M."]


def test_headings_go_down_one_at_a_time(document):
    levels = [int(one.tag[1]) for one in document.all() if re.fullmatch("h[1-6]", one.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_table_has_a_caption_and_scopes(document):
    tables = document.all("table")
    assert len(tables) > 10
    assert all(one.children[0].tag == "caption" and one.children[0].text for one in tables)
    assert all(one.attributes.get("scope") for table in tables for one in table.all("th"))


def test_every_picture_has_a_text_for_those_who_do_not_see_it(document):
    pictures = document.all("svg")
    assert len(pictures) > 10
    for one in pictures:
        assert one.attributes["role"] == "img"
        title = one.all("title")[0]
        assert title.text and title.attributes["id"] == one.attributes["aria-labelledby"]


def test_ids_are_single_and_references_lead_somewhere(document, text):
    ids = [one.attributes["id"] for one in document.all() if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    links = [one.attributes["href"] for one in document.all("a")]
    uses = re.findall(r"url\(#([^)]*)\)", text)
    uses += [value[1:] for value in links if value.startswith("#")]
    assert uses and set(uses) <= set(ids)


def test_nothing_is_fetched_and_nothing_runs(document, text):
    loading = ("href", "xlink:href", "src", "srcset", "action", "poster", "data")
    for one in document.all():
        for name, value in one.attributes.items():
            assert not name.startswith("on")
            if name in loading:
                assert value.startswith(("#", "data:")), value
    assert not document.all("script")
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_colours_are_those_of_the_style_sheet(text):
    assert set(re.findall(r"var\(--(\w+)\)", text)) <= set(COLOURS)
    assert not re.search(r"#01[0-9a-f]{2}f1", text)


def test_names_are_text_whatever_they_hold():
    name = "<script>alert(1)</script> & $x^2$"
    rows = [
        example.row(name, name, "topics", 3.0, 0.01),
        *(example.row(*one) for one in (("cachegen", "high", "topics", 0.5, 0.002),)),
    ]
    value = example.result(
        name,
        command=name,
        machine=name,
        rows=rows,
        methods={name: {"description": name, "source": name}},
        failures=[{"method": name, "level": name, "reason": name}],
        ablation=[{"step": name, "bits_per_value": 1.0, "kl": 0.1}],
    )
    text = page([read_result(value)])
    document = read(text)
    assert not document.all("script")
    assert name in document.all("title")[0].text
    assert "<script" not in text
    pictures = " ".join(one.text for one in document.all("text"))
    assert name in pictures


@pytest.mark.parametrize("section", SECTIONS)
def test_sections_without_data_say_so(document, section):
    bare = read(page([read_result(example.result(rows=[]))]))
    found = next(one for one in bare.all("section") if one.attributes.get("id") == section)
    assert "Not measured in this run." in found.text
    assert not found.all("svg") and not found.all("table")
    whole = next(one for one in document.all("section") if one.attributes.get("id") == section)
    assert "Not measured in this run." not in whole.text
    assert whole.all("table")


def test_nothing_failed_is_said():
    assert "Nothing failed in this run." in page([read_result(example.result())])


def test_the_headline_table_holds_the_summary(document):
    table = next(one for one in document.all("table") if one.attributes["class"] == "headline")
    cells = {one.children[0].text: one.children[1].text for one in table.all("tr") if one.all("td")}
    assert cells["default level"] == "high"
    assert cells["bits per value"] == "0.5"
    assert cells["smaller than 16 bits"] == "32×"  # noqa: RUF001
    assert cells["KL, nats per token"] == "0.002"
    assert cells["in the style of KVTC"] == "2.5"
    assert cells["in the style of KVServe"] == "–"  # noqa: RUF001
    assert cells["decode"] == "1.2%"


def test_tables_hold_the_rows(document):
    tables = [one for one in document.all("table") if one.attributes.get("class") == "rows"]
    shown = {}
    for table in tables[: len(example.DATASETS)]:
        dataset = table.children[0].text.split(", ")[1].split(" ")[0]
        for line in table.all("tbody")[0].children:
            cells = [cell.text for cell in line.children]
            shown[cells[0], cells[1], dataset] = (float(cells[2]), float(cells[5]), int(cells[-1]))
    expected = {
        (one["method"], one["level"], one["dataset"]): (one["bits_per_value"], one["kl"], one["n"])
        for one in example.result()["rows"]
    }
    assert shown == expected


def test_every_table_of_numbers_names_its_run(document):
    for section in SECTIONS:
        found = next(one for one in document.all("section") if one.attributes.get("id") == section)
        for caption in found.all("caption"):
            assert "2 x Some Processor" in caption.text and "0123456789ab" in caption.text
    runs = next(one for one in document.all("section") if one.attributes.get("id") == "runs")
    assert "cachegen eval --model small" in runs.text


def test_numbers_of_others_are_marked(document):
    boxes = [one for one in document.all("section") if one.attributes.get("class") == "theirs"]
    rivals = next(one for one in document.all("section") if one.attributes.get("id") == "rivals")
    assert boxes
    assert all("theirs, not measured here" in one.text for one in [*boxes, rivals])
