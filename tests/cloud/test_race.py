"""The race: the better half goes on, the winner trains to the end, and all of it takes what the recipe allows."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from small_race import OUTPUTS, SHAPE, SIDE, course, rendered, weights

from distillnet.cloud import boards, material, race
from distillnet.cloud.budget import LatencyBudget
from distillnet.cloud.checkpoint import forget
from distillnet.cloud.core import Classifier, CoreNet
from distillnet.cloud.core import weights as weights_of
from distillnet.cloud.course import Course, Trained
from distillnet.cloud.entrants import MOBILENET_V2, RESOLUTIONS, SMALLER_PICTURES, Ground, enter
from distillnet.cloud.executor import open_executor
from distillnet.cloud.training import Recipe
from distillnet.proto.strict import ConfigError


def network() -> Classifier:
    torch.manual_seed(0)
    return Classifier(CoreNet(SHAPE), SHAPE.head, 10)


def ground(ms: float) -> Ground:
    rng = np.random.default_rng(0)
    wanted = np.eye(OUTPUTS, dtype=np.float32)[rng.integers(0, OUTPUTS, 24)]
    return Ground(
        network=network(),
        question=torch.nn.Linear(SHAPE.head, OUTPUTS),
        pictures=lambda side: torch.randn(24, 3, side, side, generator=torch.Generator().manual_seed(1)),
        wanted=wanted,
        budget=LatencyBudget(boards.find("x86-64", Path()), ms),
        most_weights=float("inf"),
        seed=0,
    )


def test_the_better_half_goes_on_and_one_is_trained_to_the_end(tmp_path):
    courses = [course(name, tmp_path, Recipe(1.0)) for name in "abcd"]
    merits = {"a": 0.1, "b": 0.4, "c": 0.3, "d": 0.2}
    asked = []

    def teach(some, share):
        asked.append(("".join(c.entrant.name for c in some), share))
        return [Trained(c.entrant, share, merits[c.entrant.name], []) for c in some]

    out = race.run(courses, teach)
    assert [trained.entrant.name for trained in out] == ["b", "c", "d", "a"]
    assert asked == [("abcd", race.rounds(4)[0]), ("bc", race.rounds(4)[1]), ("b", 1.0)]
    rows = race.facts(out, n=60)
    assert [row["chosen"] for row in rows] == [True, False, False, False]
    assert "b stayed in" in rows[1]["why"]


@pytest.mark.parametrize("entrants", [1, 2, 3, 4, 5, 8])
def test_the_whole_race_takes_what_the_recipe_allows(entrants):
    each = race.shorten(Recipe(seconds=100.0, steps=10_000), entrants)
    spent, before, alive = 0.0, 0.0, entrants
    for share in race.rounds(entrants):
        spent += alive * (share - before) * each.seconds
        before, alive = share, -(-alive // 2)
    assert spent == pytest.approx(100.0)
    assert race.rounds(entrants)[-1] == 1.0
    assert each.steps == int(10_000 * each.seconds / 100.0)


def test_a_stretch_goes_on_where_the_one_before_stopped_and_ends_as_one_would(tmp_path):
    recipe = Recipe(seconds=float("inf"), steps=12, batch=8)
    in_two = course("one", tmp_path / "two", recipe)
    half = in_two.teach(0.5)
    assert half.curve[-1]["step"] == 6
    whole = in_two.teach(1.0)
    at_once = course("one", tmp_path / "once", recipe).teach(1.0)
    assert whole.curve[-1]["step"] == at_once.curve[-1]["step"] == 12
    assert torch.equal(weights(whole), weights(at_once))


def test_a_finished_course_is_not_trained_again(tmp_path):
    recipe = Recipe(seconds=float("inf"), steps=4, batch=8)
    first = course("one", tmp_path, recipe).teach(1.0)
    again = course("one", tmp_path, recipe).teach(1.0)
    assert again.curve[-1]["step"] == 4
    assert torch.equal(weights(first), weights(again))
    forget(tmp_path)
    material.forget(tmp_path)
    assert not list(tmp_path.iterdir())


def test_material_is_gone_however_training_ends_and_so_is_that_of_a_run_that_was_killed(tmp_path):
    material.write(tmp_path / ".material-7", *rendered())
    with pytest.raises(KeyboardInterrupt), material.lent(tmp_path, [rendered()]) as folders:
        assert list(tmp_path.iterdir()) == [folders[SIDE]]
        lessons, examination = material.read(folders[SIDE])
        assert np.array_equal(lessons.pixels, examination.pixels)
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_workers_choose_the_winner_that_one_process_chooses(tmp_path):
    recipe = Recipe(seconds=float("inf"), steps=8, batch=8)
    alone = [course(name, tmp_path / "alone", recipe, seed=index) for index, name in enumerate("abc")]
    torch.set_num_threads(1)
    here = race.run(alone, lambda some, share: [c.teach(share) for c in some])
    many = [course(name, tmp_path / "many", recipe, seed=index) for index, name in enumerate("abc")]
    with open_executor("local", workers=2) as executor:
        there = race.run(many, lambda some, share: executor.map(partial(Course.teach, share=share), some))
    assert [(t.entrant.name, t.merit) for t in here] == [(t.entrant.name, t.merit) for t in there]
    assert torch.equal(weights(here[0]), weights(there[0]))


@pytest.mark.parametrize(
    ("share", "names"), [(0.3, [SMALLER_PICTURES]), (0.5, ["core", SMALLER_PICTURES]), (1.0, ["core"])]
)
def test_smaller_pictures_race_where_they_need_the_time(share, names):
    uncut = ground(1.0).budget.network_ms(network(), RESOLUTIONS["core"])
    entrants = enter(ground(share * uncut), 2, None, lambda amount: None)
    assert [entrant.name for entrant in entrants] == names


def test_whole_blocks_go_first_for_few_weights_as_for_little_latency():
    slow_but_small = replace(ground(1000.0), most_weights=weights_of(network()) / 4)
    (core,) = enter(slow_but_small, 1, SIDE, lambda amount: None)
    assert core.candidate.dropped
    assert not enter(ground(1000.0), 1, SIDE, lambda amount: None)[0].candidate.dropped


def test_every_candidate_fits_the_budget_and_only_cut_ones_know_the_teacher():
    entrants = enter(ground(0.02), 4, SIDE, lambda amount: None)
    assert [entrant.name for entrant in entrants] == ["core", "core, fewer blocks", "slim"]
    assert all(entrant.ms <= 0.0202 for entrant in entrants)
    assert entrants[0].candidate.relevance
    assert not entrants[2].candidate.relevance


def test_a_budget_nobody_meets_says_what_the_smallest_takes():
    with pytest.raises(ConfigError, match=r"latency_ms = 1e-06 on x86-64 is met by no candidate.*takes"):
        enter(ground(1e-6), 2, SIDE, lambda amount: None)


def test_an_unknown_board_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'rpi4'"):
        boards.find("rpi-4", Path())


def test_mobilenets_shape_is_the_papers():
    assert len(MOBILENET_V2.blocks) == 17
    assert [b.out for b in MOBILENET_V2.blocks if b.stride == 2] == [24, 32, 64, 160]
    assert sum(b.residual for b in MOBILENET_V2.blocks) == 10
