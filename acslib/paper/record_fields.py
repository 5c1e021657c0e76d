"""What `record.json` holds, as models: every field with its meaning and unit.

A field that nobody knows is refused. Those that came later, or that only some runs have, have a
default, so that records of earlier versions are read.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

AtLeastZero = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
AtLeastOne = Annotated[int, Field(ge=1)]


class RecordPart(BaseModel):
    """Of a record."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Metrics(RecordPart):
    """Accuracies as fractions, and how many images they are of."""

    acc: Fraction = Field(description="Clean accuracy on the test images, a fraction.")
    n: AtLeastOne = Field(description="Test images, a number.")
    racc: Fraction | None = Field(
        default=None,
        description="Robust accuracy under the paper's PGD, on the first `evaluation_n` test images"
        " or on all, a fraction.",
    )
    evaluation_n: AtLeastOne | None = Field(
        default=None, description="Test images that this PGD ran on, where it left some out."
    )
    pgd20: Fraction | None = Field(
        default=None,
        description="Robust accuracy under PGD of 20 steps without restarts on all test images,"
        " where the paper's PGD left some out, a fraction.",
    )
    autoattack: Fraction | None = Field(
        default=None, description="Robust accuracy under AutoAttack, a fraction."
    )
    autoattack_n: AtLeastOne | None = Field(
        default=None, description="Test images that AutoAttack ran on, the first so many."
    )
    racc_autoattack_l2: Fraction | None = Field(
        default=None, description="Robust accuracy under AutoAttack in l2, a fraction."
    )
    racc_autoattack_linf: Fraction | None = Field(
        default=None, description="Robust accuracy under AutoAttack in linf, a fraction."
    )
    racc_jpeg: Fraction | None = Field(
        default=None, description="Robust accuracy under the JPEG attack, a fraction."
    )
    racc_stadv: Fraction | None = Field(
        default=None, description="Robust accuracy under StAdv, a fraction."
    )
    racc_recolor: Fraction | None = Field(
        default=None, description="Robust accuracy under ReColor, a fraction."
    )
    racc_ppgd: Fraction | None = Field(
        default=None, description="Robust accuracy under PPGD, a fraction."
    )
    racc_lpa: Fraction | None = Field(
        default=None, description="Robust accuracy under LPA, a fraction."
    )
    threats_n: AtLeastOne | None = Field(
        default=None,
        description="Test images that each attack of Table C1 ran on, the first so many.",
    )


class PlanCost(RecordPart):
    """What the schedule saves."""

    cost: AtLeastZero = Field(description="Samples trained on, as a share of full training's.")
    ceiling: AtLeastZero = Field(
        description="One over `cost`: the speed-up where selecting is free."
    )
    selections: int = Field(ge=0, description="Epochs that select a coreset, a number.")


class Seconds(RecordPart):
    """What the run took; `total` is training without what is logged and evaluated."""

    select: AtLeastZero = Field(description="Selecting coresets, in seconds.")
    attack: AtLeastZero = Field(description="Making adversarial images, in seconds.")
    update: AtLeastZero = Field(description="Updating weights, in seconds.")
    total: AtLeastZero = Field(description="The sum of these three, in seconds.")
    wall: AtLeastZero | None = Field(
        default=None, description="The same by the clock, in seconds; none in version 0.1.0."
    )
    evaluate: AtLeastZero | None = Field(
        default=None, description="Evaluating, by the clock, in seconds."
    )


class Selected(RecordPart):
    """The coreset that an epoch selected. Errors are those of eq. (12); a selector that looks at no
    gradients has none.
    """

    size: int = Field(ge=0, description="Samples in the coreset, a number.")
    of: AtLeastOne | None = Field(
        default=None, description="Samples that it was from, a number; none in version 0.1.0."
    )
    reason: str | None = Field(default=None, description="In words, why the selector stopped.")
    error: float | None = Field(
        default=None, description="Gradient error, in the gradient's units."
    )
    relative_error: float | None = Field(
        default=None, description="The same as a share of the total gradient."
    )
    random_error: float | None = Field(
        default=None, description="Mean error of random subsets of that size, in the same units."
    )
    random_relative_error: float | None = Field(
        default=None, description="The same as a share of the total gradient."
    )


class Row(RecordPart):
    """An epoch of the history. One that trains nothing has no loss."""

    epoch: int = Field(ge=0, description="From 0.")
    phase: Literal["full", "skip", "coreset"] = Field(
        description="Trained on all images, not trained, or trained on the coreset."
    )
    rate: AtLeastZero | None = Field(default=None, description="The learning rate.")
    selection: Selected | None = Field(description="What was selected in the epoch, if anything.")
    loss: float | None = Field(
        default=None, description="Mean training loss of a sample, in nats for cross-entropies."
    )
    samples: int | None = Field(default=None, ge=0, description="Samples trained on, a number.")
    train_robust_accuracy: Fraction | None = Field(
        default=None, description="Of the adversarial images trained on, a fraction."
    )
    train_clean_loss: float | None = Field(
        default=None, description="Cross-entropy of a few training images, in nats."
    )
    train_clean_accuracy: Fraction | None = Field(
        default=None, description="Accuracy on a few training images, a fraction."
    )
    validation_clean_loss: float | None = Field(
        default=None, description="Cross-entropy of a few validation images, in nats."
    )
    validation_clean_accuracy: Fraction | None = Field(
        default=None, description="Accuracy on a few validation images, a fraction."
    )
    validation_robust_loss: float | None = Field(
        default=None, description="Cross-entropy of them under the training's attack, in nats."
    )
    validation_robust_accuracy: Fraction | None = Field(
        default=None, description="Accuracy on them under the training's attack, a fraction."
    )
    seconds_select: AtLeastZero = Field(description="Selecting a coreset, in seconds.")
    seconds_attack: AtLeastZero = Field(description="Making adversarial images, in seconds.")
    seconds_update: AtLeastZero = Field(description="Updating weights, in seconds.")
    seconds_wall: AtLeastZero | None = Field(
        default=None, description="The three by the clock, in seconds; none in version 0.1.0."
    )


class WarmStart(RecordPart):
    """First epochs that several runs have in common. The history has them as if the run had trained
    them itself, seconds included.
    """

    shared: Literal[True] = Field(description="Always so: else there is no such part.")
    epochs: AtLeastOne = Field(description="How many.")
    made_by: str = Field(alias="from", description="The run that trained them.")


class Calibration(RecordPart):
    """What a full epoch takes, which was trained to be timed and thrown away."""

    full_epoch: AtLeastZero = Field(description="Attack and update as in the history, in seconds.")


class Made(RecordPart):
    """Versions, hardware and commit, as far as they were recorded."""

    versions: dict[str, str] = Field(default={}, description="Of Python and packages, by name.")
    device: str | None = Field(default=None, description="The processor's or GPU's name.")
    commit: str | None = Field(
        default=None, description="The checkout's, with + where files differ; null outside of one."
    )


class Provenance(Made):
    """What made the record. What a GPU was told is missing for a CPU."""

    precision: str | None = Field(default=None, description="Numbers that networks computed in.")
    threads: AtLeastOne | None = Field(default=None, description="In version 0.1.0 alone.")
    tf32: bool | None = Field(default=None, description="Whether a GPU rounded products to TF32.")
    cudnn_benchmark: bool | None = Field(
        default=None, description="Whether cuDNN searched for its fastest algorithms."
    )
    deterministic: bool | None = Field(
        default=None,
        description="Whether a GPU took only algorithms that give the same bits twice.",
    )
    plugins: dict[str, str] = Field(
        default={}, description="Files that registered parts of the run, with digests of them."
    )
    evaluation: Made | None = Field(
        default=None, description="Of an evaluation that came later than training."
    )


class Record(RecordPart):
    """record.json. Everything that tables and figures look at must be there."""

    format: Literal[1] = Field(description="Of this file; 1 is the only one so far.")
    run: str = Field(description="The run's name.")
    profile: str | None = Field(default=None, description="The profile's name.")
    seed: int = Field(ge=0, description="What the run's random draws begin with.")
    fingerprint: str = Field(description="Digest of all parameters.")
    params: dict[str, Any] = Field(
        description="The parameters themselves, as `Setting` had them when the run was made."
    )
    method: str | None = Field(default=None, description="The method's name.")
    setting: str | None = Field(default=None, description="The setting's name.")
    data: str = Field(description="Which images, in words.")
    threads: AtLeastOne = Field(default=1, description="Of each process; 1 in version 0.1.0.")
    processes: AtLeastOne = Field(default=1, description="That shared the run; 1 in version 0.1.0.")
    plan: PlanCost | None = Field(default=None, description="What the schedule saves.")
    metrics: Metrics = Field(description="Accuracies as fractions.")
    masks: dict[str, str] = Field(
        default={}, description="Of each accuracy, which images are right; see `masks`."
    )
    seconds: Seconds = Field(description="What the run took, in seconds.")
    history: tuple[Row, ...] = Field(min_length=1, description="One row an epoch.")
    warm_start: WarmStart | None = Field(
        default=None, description="First epochs that another run has trained."
    )
    calibration: Calibration | None = Field(
        default=None, description="For runs that have no full epoch of their own."
    )
    provenance: Provenance = Field(description="Versions, hardware, commit.")
    sha256: str | None = Field(default=None, description="Of the rest; none in version 0.1.0.")
