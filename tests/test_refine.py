"""Instance optimisation: it finds a known displacement, keeps the better answer, never folds, and forgets the last
pair."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mine_reg.losses import MineLoss, scores
from mine_reg.models import StatisticNet
from mine_reg.pair_tool.refine import RefinementSettings, refine
from mine_reg.spatial import smooth, transform_points, voxel_points, warp

SIZE = (24, 24, 24)


@pytest.fixture(scope="module")
def pair():
    """A textured image and itself displaced by a smooth field of one voxel on average; x -> x + u(x) leads from fixed
    to moving."""
    generator = torch.Generator().manual_seed(0)
    image = smooth(torch.rand(1, 1, *SIZE, generator=generator), 1.5)
    image = (image - image.min()) / (image.max() - image.min())
    field = smooth(torch.randn(1, 3, *SIZE, generator=generator), 5.0)
    field = field / field[0, :, 5:-5, 5:-5, 5:-5].norm(dim=0).mean()
    return warp(image, field), image, field


@pytest.fixture(scope="module")
def statistic(pair):
    """T as a training leaves it: it knows how aligned images of this kind look."""
    torch.manual_seed(1)
    statistic, criterion, values = StatisticNet(16, 1), MineLoss(), pair[0].flatten()[None, :, None]
    optimiser = torch.optim.Adam(statistic.parameters(), 5e-3)
    for _ in range(300):
        chosen = torch.randint(values.shape[1], (4000,))
        optimiser.zero_grad()
        criterion(*scores(statistic, values[:, chosen] + 0.05 * torch.randn(1, 4000, 1), values[:, chosen])).backward()
        optimiser.step()
    return statistic


def error(theta, dvf, field) -> float:
    chosen = torch.arange(24**3).view(SIZE)[5:-5, 5:-5, 5:-5].flatten()
    points = voxel_points(chosen[None], SIZE)
    truth = points + field.flatten(2).transpose(1, 2)[:, chosen]
    return float((transform_points(points, SIZE, theta, dvf) - truth).norm(dim=-1).mean())


def run(pair, statistic, steps, watch=None, shown=None, **options):
    fixed, moving, _ = pair
    start = torch.eye(3, 4)[None], torch.zeros(1, 3, 12, 12, 12)
    return refine(
        fixed,
        moving,
        *start,
        statistic,
        torch.ones(SIZE, dtype=torch.bool),
        steps,
        RefinementSettings(**{"mu": 1.0, "samples": 8000, "rate": 0.05, **options}),
        watch,
        shown,
    )


def test_it_finds_a_known_displacement_and_says_what_it_did(pair, statistic):
    theta, dvf, info = run(pair, statistic, 150)
    before = error(torch.eye(3, 4)[None], torch.zeros(1, 3, 12, 12, 12), pair[2])
    assert before > 0.5 and error(theta, dvf, pair[2]) < 0.5 * before
    assert info["objective_after"] < info["objective_before"] and 0 < info["best_step"] <= info["steps"] <= 150


def test_it_stops_and_gives_back_the_start_when_nothing_gets_better(pair, statistic):
    theta, dvf, info = run(pair, statistic, 100, mu=1e6)  # any field costs more than all similarity is worth
    assert info["best_step"] == 0 and info["steps"] == 20
    torch.testing.assert_close(theta, torch.eye(3, 4)[None])
    assert dvf.abs().max() == 0


def test_an_answer_that_folds_is_never_taken(pair, statistic):
    _, dvf, info = run(pair, statistic, 40, mu=0.0, rate=3.0, smoothing=0.0)
    assert info["best_step"] == 0 and dvf.abs().max() == 0


def test_several_threads_at_once_give_exactly_the_answer_of_a_lone_run(pair, statistic):
    alone, state = run(pair, statistic, 30), torch.random.get_rng_state()
    with ThreadPoolExecutor(4) as several:
        answers = list(several.map(lambda _: run(pair, statistic, 30), range(4)))
    for theta, dvf, info in answers:
        assert torch.equal(theta, alone[0]) and torch.equal(dvf, alone[1]) and info == alone[2]
    assert torch.equal(torch.random.get_rng_state(), state)  # neither read nor advanced
    torch.manual_seed(5)
    assert torch.equal(run(pair, statistic, 30)[1], alone[1])
    assert not torch.equal(run(pair, statistic, 30, seed=1)[1], alone[1])


def test_images_made_in_inference_mode_can_be_refined(pair, statistic):
    with torch.inference_mode():
        fixed, moving = (image.clone() for image in pair[:2])
        found = run((fixed, moving, None), statistic, 10)
    assert torch.equal(found[1], run(pair, statistic, 10)[1])


def test_nothing_of_a_pair_reaches_the_next(pair, statistic):
    before = {name: value.clone() for name, value in statistic.state_dict().items()}
    first = run(pair, statistic, 20)
    second = run(pair, statistic, 20)
    assert all(torch.equal(value, before[name]) for name, value in statistic.state_dict().items())
    torch.testing.assert_close(second[1], first[1], rtol=0, atol=0)


def other_network(seed=9):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return StatisticNet(16, 1)


def test_without_mine_self_similarity_finds_it_and_t_plays_no_part(pair, statistic):
    before = error(torch.eye(3, 4)[None], torch.zeros(1, 3, 12, 12, 12), pair[2])
    theta, dvf, _ = run(pair, statistic, 100, mine=0.0)
    assert error(theta, dvf, pair[2]) < 0.5 * before
    assert torch.equal(run(pair, other_network(), 100, mine=0.0)[1], dvf)
    assert not torch.equal(run(pair, other_network(), 100)[1], run(pair, statistic, 100)[1])


def test_self_similarity_sees_what_any_contrast_shows(pair, statistic):
    fixed, moving, field = pair
    inverted = fixed, 1 - 0.5 * moving, field
    before = error(torch.eye(3, 4)[None], torch.zeros(1, 3, 12, 12, 12), field)
    theta, dvf, _ = run(inverted, statistic, 100, mine=0.0)
    assert error(theta, dvf, field) < 0.5 * before


def test_without_self_similarity_mine_finds_it(pair, statistic):
    before = error(torch.eye(3, 4)[None], torch.zeros(1, 3, 12, 12, 12), pair[2])
    theta, dvf, _ = run(pair, statistic, 150, self_similarity=0.0)
    assert error(theta, dvf, pair[2]) < 0.6 * before


def test_without_either_nothing_is_worth_a_move(pair, statistic):
    _, dvf, info = run(pair, statistic, 30, mine=0.0, self_similarity=0.0)
    assert info["best_step"] == 0 and info["objective_before"] == 0 and dvf.abs().max() == 0


def test_where_the_moving_image_shows_nothing_its_values_do_not_count(pair, statistic):
    """Of the moving image the upper part was cut off and filled."""
    fixed, moving, field = pair
    shown = torch.zeros(SIZE, dtype=torch.bool)
    shown[:15] = True  # and the slice above is whole, of which a voxel below sees a hundredth

    def filled(value):
        return fixed, torch.cat([moving[:, :, :16], torch.full_like(moving[:, :, 16:], value)], dim=2), field

    answers = [run(filled(value), statistic, 40, shown=shown, self_similarity=0.0) for value in (0.0, 0.7)]
    assert torch.equal(answers[0][1], answers[1][1]) and answers[0][2] == answers[1][2]
    # without being told, the same two fillings give two answers
    blind = [run(filled(value), statistic, 40, self_similarity=0.0)[1] for value in (0.0, 0.7)]
    assert not torch.equal(*blind)
    everywhere = run(pair, statistic, 40, shown=torch.ones(SIZE, dtype=torch.bool))[1]
    assert not torch.equal(everywhere, run(filled(0.7), statistic, 40)[1])


def test_an_image_that_shows_nothing_at_all_moves_nothing(pair, statistic):
    _, dvf, info = run(pair, statistic, 20, shown=torch.zeros(SIZE, dtype=torch.bool))
    assert info["best_step"] == 0 and dvf.abs().max() == 0
