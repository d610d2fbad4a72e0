from cachegen.evaluation.report.published import of_section, published

SECTIONS = {"opening", "quality", "scores", "ttft", "slo", "timeline", "ablation", "breakdown"}


def test_every_number_has_a_source_and_a_place():
    assert {one.section for one in published()} <= SECTIONS | {"cost", "rivals"}
    assert all(one.source and one.value and one.what and one.who for one in published())
    assert sum(map(len, (of_section("opening"), of_section("rivals")))) > 10


def test_only_what_was_read_or_stated_is_said_so():
    stated = {one.source.split(",")[0] for one in published() if one.standing == "stated"}
    assert stated == {"arXiv 2310.07240", "arXiv 2511.01815"}
    assert all("checked" in one.checked for one in published() if one.standing == "reported")
