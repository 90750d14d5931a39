"""Which checkpoints are deleted: what nobody needs, and over the quota the least useful first."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from search.drive.holdings import Choice, Holding, Standing, choose

STANDINGS: tuple[Standing, ...] = ("running", "waiting", "cut short", "ended", "worthless")


@st.composite
def _holdings(draw: st.DrawFn) -> list[Holding]:
    made = []
    for trial in range(draw(st.integers(0, 7))):
        epochs = draw(st.sets(st.integers(1, 6), min_size=1, max_size=3))
        made.append(
            Holding(
                trial=trial,
                standing=draw(st.sampled_from([*STANDINGS, "cut short", "ended"])),
                merit=(-draw(st.sampled_from([0.5, 0.7, 0.9])), 100, trial),
                best_epoch=draw(st.sampled_from([*sorted(epochs), None])),
                sizes={epoch: draw(st.integers(1, 20)) for epoch in epochs},
            )
        )
    return made


def wanted(holdings: list[Holding], keep_best: int) -> dict[tuple[int, int], str]:
    """Return what is kept where there is no quota, each with what it is for."""
    # The best networks that there are: one whose best checkpoint was lost does not count.
    ended = [h for h in holdings if h.standing in ("ended", "cut short")]
    ended = [h for h in ended if h.best_epoch in h.sizes]
    places = [h.trial for h in sorted(ended, key=lambda h: h.merit)][:keep_best]
    kept = {}
    for holding in holdings:
        standing, trial = holding.standing, holding.trial
        for epoch in holding.sizes:
            is_last, is_best = epoch == max(holding.sizes), epoch == holding.best_epoch
            if standing == "running" or (is_best and places[:1] == [trial]):
                use = "needed"
            elif is_last and standing == "waiting":
                use = "4 last of waiting"
            elif is_best and standing == "waiting":
                use = "3 best of waiting"
            elif is_last and standing == "cut short":
                use = "2 last of cut short"
            elif is_best and trial in places:
                use = "1 best of ended"
            else:
                continue
            kept[trial, epoch] = use
    return kept


@settings(max_examples=500)
@given(_holdings(), st.integers(0, 4), st.none() | st.integers(0, 20))
def test_what_is_deleted_is_what_is_needed_least(
    holdings: list[Holding], keep_best: int, twentieths: int | None
) -> None:
    sizes = {(h.trial, epoch): size for h in holdings for epoch, size in h.sizes.items()}
    uses = wanted(holdings, keep_best)
    most = None if twentieths is None else sum(sizes[key] for key in uses) * twentieths / 20
    choice = choose(holdings, keep_best=keep_best, max_bytes=most)
    assert set(choice.surplus) == sizes.keys() - uses.keys()
    assert len(choice.surplus) + len(choice.squeezed) == len({*choice.surplus, *choice.squeezed})
    left = {key: sizes[key] for key in uses if key not in choice.squeezed}
    assert choice.kept_bytes == sum(left.values())
    # Kind by kind; of a kind, the worst trial's first.
    merit = {h.trial: h.merit for h in holdings}
    order = [(uses[key], [-part for part in merit[key[0]]]) for key in choice.squeezed]
    assert order == sorted(order)
    assert all(use != "needed" for use, _ in order)
    if most is None:
        assert not choice.squeezed
    elif choice.kept_bytes > most:  # all that may go has gone
        assert all(uses[key] == "needed" for key in left)
    elif choice.squeezed:  # no more than had to
        assert choice.kept_bytes + sizes[choice.squeezed[-1]] > most
    # Nothing more goes when it is asked again.
    after = [
        Holding(
            trial=h.trial,
            standing=h.standing,
            merit=h.merit,
            best_epoch=h.best_epoch,
            sizes={e: size for (trial, e), size in left.items() if trial == h.trial},
        )
        for h in holdings
    ]
    again = choose(after, keep_best=keep_best, max_bytes=most)
    assert again == Choice(surplus=(), squeezed=(), kept_bytes=choice.kept_bytes)
