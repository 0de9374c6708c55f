"""The page of a first session on a GPU holds what the tests said and what was measured."""

from __future__ import annotations

from dataclasses import replace

from hemodist.bench import on_gpu
from hemodist.config.run import check
from tests.support.dataset import make_dataset

REPORT = """<testsuites><testsuite>
<testcase classname="tests.gpu.test_a" name="test_one"/>
<testcase classname="tests.gpu.test_a" name="test_two"><failure message="assert 1 == 2&#10;more"/></testcase>
<testcase classname="tests.gpu.test_b" name="test_three"><skipped message="two GPUs are needed"/></testcase>
</testsuite></testsuites>"""


def test_each_case_is_a_run_that_can_start_and_differs_from_the_others(tmp_path):
    runs = on_gpu.cases(make_dataset(tmp_path / "data", samples=40), tmp_path)
    for run in runs.values():
        check(run)
    assert len({str(replace(run, name="x", output="x")) for run in runs.values()}) == len(runs)


def test_tests_and_figures_end_on_one_page(tmp_path):
    dataset = make_dataset(tmp_path / "data", samples=40)
    (run,) = list(on_gpu.cases(dataset, tmp_path).values())[:1]
    run = replace(run, model=replace(run.model, image_size=32), batch=replace(run.batch, global_batch_size=8))
    outcome = on_gpu.bench_settings({"small": run}, quick=True, device="cpu")
    tested = on_gpu.read_report(REPORT)
    assert tested.passed == 1
    page = on_gpu.write_page(tested, {"settings": outcome}, ["NVIDIA H100, 580.1"], tmp_path).read_text()
    assert "- NVIDIA H100, 580.1\n" in page
    assert "tests: 1 passed, 1 failed, 1 skipped" in page
    assert "failed: test_a::test_two: assert 1 == 2\n" in page
    assert "skipped: test_b::test_three: two GPUs are needed" in page
    assert "| small | " in page
