"""The log of a run."""


def epoch_line(row: dict) -> str:
    """One line of log for an epoch."""
    parts = [f"epoch {row['epoch']:3d} {row['phase']:7s} lr {row['rate']:.4g}"]
    if "loss" in row:
        parts.append(
            f"loss {row['loss']:.3f}, robust (train) {100 * row['train_robust_accuracy']:.1f} %"
        )
    if "train_clean_accuracy" in row:
        parts.append(f"clean (train) {100 * row['train_clean_accuracy']:.1f} %")
    if row["selection"]:
        error = row["selection"].get("relative_error")
        parts.append(
            f"selected {row['selection']['size']} ({row['selection']['reason']})"
            + (f", gradient error {100 * error:.1f} %" if error is not None else "")
        )
    seconds = " ".join(
        f"{part} {row[f'seconds_{part}']:.1f}" for part in ("select", "attack", "update")
    )
    return ", ".join(parts) + f"; seconds: {seconds}"
