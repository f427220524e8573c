"""An ObjectStatus as Kubernetes writes it, but for the times of its conditions. Pure."""

from broker.policy.status import Condition, ObjectStatus, Row


def written(status: ObjectStatus) -> dict[str, object]:
    """What stands below `status`."""
    about = status.about
    told: dict[str, object] = {"conditions": [_condition(one, about.generation) for one in status.conditions]}
    if about.generation is not None:
        told["observedGeneration"] = about.generation
    if about.kind == "AIRoutingPolicy":
        rows = {"providers": [_row(row) for row in status.providers], "models": [_row(row) for row in status.models]}
        told |= {"modelSummary": status.model_summary, **rows}
    if about.kind == "AIAccessPolicy":
        told |= {"subjectSummary": status.subject_summary, "modelSummary": status.model_summary}
    return told


def _condition(condition: Condition, generation: int | None) -> dict[str, object]:
    told: dict[str, object] = {"type": condition.type, "status": condition.status, "reason": condition.reason, "message": condition.message}
    return told if generation is None else {**told, "observedGeneration": generation}


def _row(row: Row) -> dict[str, object]:
    return {"name": row.name, "ready": row.ready, "reason": row.reason, "message": row.message}
