"""Which parameters mattered: Optuna's estimate of each one's share."""

from __future__ import annotations

import re
import warnings

from search.record.study import Study


def importance(study: Study) -> tuple[dict[str, float], str]:
    """Return each parameter's share in reaching the best tenth (PED-ANOVA), and a remark.

    Optuna's estimate over complete trials: Watanabe et al., arXiv:2304.10255. The remark says what
    is uncertain, or why there are no shares.
    """
    complete = sum(trial.state.name == "COMPLETE" for trial in study.optuna.get_trials(False))
    if complete < 2:
        return {}, f"complete trials: {complete}, but at least 2 are needed"
    from optuna.importance import get_param_importances  # seconds: it imports scikit-learn

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            values = get_param_importances(study.optuna)
        except (ValueError, RuntimeError) as error:
            return {}, " ".join(str(error).split())
    remarks = [" ".join(str(warning.message).split()).rstrip(".") for warning in said]
    equal = [remark for remark in remarks if "will be equal" in remark]
    if equal or not values:  # bars of one length would say something that is not known
        return {}, (equal or ["no complete trial has a searched parameter"])[0]
    unsure = {name for remark in remarks for name in re.findall("`(.+?)`", remark)}
    remark = f"Uncertain, for lack of trials: {', '.join(sorted(unsure))}." if unsure else ""
    return {name: float(value) for name, value in values.items()}, remark
