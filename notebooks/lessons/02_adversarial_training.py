# %% [markdown]
# # Lesson 2. Adversarial training is a minimum over maxima
#
# **Afterwards you can** solve the inner maximum of a linear classifier by hand, differentiate a
# maximum with Danskin's theorem, train a robust network, and say why it costs so much.
#
# **You need** [Lesson 1](01_adversarial_examples.ipynb).
#
# **Minutes:** 55.

# %%
import checks
import course
import matplotlib.pyplot as plt
import torch
from torch.nn.functional import cross_entropy, softplus

from acslib.attacks import PGD
from acslib.objectives import AdversarialTraining, Vanilla
from acslib.passes import frozen

# %% [markdown]
# ## The problem
#
# Training minimises a sum over the samples (eq. 1). In adversarial training each term is itself a
# maximum:
#
# > "In adversarial training, the objective is itself an optimization problem" (section 2.1.2)
#
# $$\min_\theta \sum_i \max_{\tilde x_i} \mathcal L(\theta; \tilde x_i)\qquad\text{(eqs. 1, 3, 6)}$$
#
# The attacker moves last and knows $\theta$. We begin where everything can be solved by hand: two
# numbers for an image, a label of -1 or 1, and a linear classifier. It predicts the sign of
# $\theta\cdot x$. The **margin** $y\,\theta\cdot x$ is positive where it is right. The loss is
# $\log(1+e^{-\text{margin}})$.
#
# ### Exercise 2.1
#
# Each coordinate of x may move by at most epsilon. Which $\tilde x$ has the smallest margin?
#
# <details><summary>Hint</summary>
#
# The margin is a sum over coordinates of $y\,\theta_d\,\tilde x_d$. Make each term as small as it
# can be. Its slope is $y\,\theta_d$, and only the sign matters.
#
# </details>


# %% tags=["exercise"]
def my_worst(theta, images, labels, epsilon):
    """The worst images (n, d). theta: (d,), images: (n, d), labels: (n,) of -1 and 1."""
    # >>> answer
    return images - epsilon * labels[:, None] * theta.sign()
    # >>> stub
    # return None
    # <<<


# %%
worst = my_worst if checks.check_2_1(my_worst) else checks.worst

# %% [markdown]
# The slider moves epsilon. Each square holds all that the attacker may choose for a point; the
# small mark on its corner is the worst. All squares have their worst corner on the side that
# $\theta$ says.

# %%
generator = torch.Generator().manual_seed(1)
labels = torch.tensor([1.0, -1.0]).repeat(8)
images = 0.5 * torch.randn(16, 2, generator=generator) + labels[:, None] * torch.tensor([0.8, 0.3])
theta = torch.tensor([1.0, 0.6])


def draw(axis, epsilon):
    moved = worst(theta, images, labels, epsilon)
    course.squares(axis, images, moved, labels, epsilon)
    axis.axline((0, 0), slope=float(-theta[0] / theta[1]), color="black")
    axis.set_xlabel(f"wrong: {int((labels * (moved @ theta) <= 0).sum())} of 16")
    return f"circles right and squares left of a falling line, {axis.get_xlabel()}"


course.slider(draw, "epsilon", [0.0, 0.1, 0.2, 0.3, 0.4, 0.6], [0.0, 0.2, 0.4])

# %% [markdown]
# ### Exercise 2.2
#
# Put your worst image into the margin. What is left is a formula without any maximum: the attack
# takes $\varepsilon\sum_d|\theta_d|$ off every margin. Write the loss of the worst images with
# it.
#
# <details><summary>Hint</summary>
#
# `softplus(z)` is log(1 + exp(z)). The margin of the clean images is `labels * (images @ theta)`.
#
# </details>


# %% tags=["exercise"]
def my_worst_loss(theta, images, labels, epsilon):
    """The loss of the worst images, (n,), without building them."""
    # >>> answer
    margins = labels * (images @ theta) - epsilon * theta.abs().sum()
    return softplus(-margins)
    # >>> stub
    # return None
    # <<<


# %%
worst_loss = my_worst_loss if checks.check_2_2(my_worst_loss) else checks.worst_loss

# %% [markdown]
# So for a linear classifier adversarial training is ordinary training with a price on large
# weights. There is no such formula for a network. There we need the next idea.
#
# ## Danskin's theorem
#
# > "it suffices to (1) find the maximizer, and (2) evaluate the normal gradient at this point"
# > (section 3.3, after Theorem 2)
#
# Take one sample, labelled 1, and its four corners. Each corner gives a loss that is smooth in
# $\theta$. The worst-case loss $\phi$ is the upper envelope of the four curves. We walk through
# $\theta$ along a line. **Before you move the slider:** what is the slope of $\phi$ where one
# corner is on top, and what happens where two curves cross?

# %%
corners = torch.tensor([0.3, 0.4]) + 0.5 * torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
line = torch.linspace(-2, 2, 201)
start, way = torch.tensor([0.5, 1.0]), torch.tensor([1.0, -1.0])
heights = softplus(-(start + line[:, None] * way) @ corners.T)


def draw(axis, t):
    course.envelope(axis, line, heights)
    on_top = corners[(corners @ (start + t * way)).argmin()]
    margin = on_top @ (start + t * way)
    slope = -torch.sigmoid(-margin) * (on_top @ way)
    return course.tangent(axis, t, float(softplus(-margin)), float(slope))


course.slider(draw, "t", [-1.6, -1.0, -0.3, 0.0, 0.7, 1.6], [-1.0, 0.0, 1.6])

# %% [markdown]
# The blue tangent belongs to the corner on top alone, and it touches the envelope. Nobody had to
# ask how the *best corner* moves with $\theta$: to first order it does not matter. At a crossing
# there are two slopes, and $\phi$ has a kink.
#
# ### Exercise 2.3
#
# The gradient of each sample's worst-case loss, by Danskin.
#
# <details><summary>Hint</summary>
#
# For a fixed x the gradient of log(1 + exp(-y θ·x)) is $-\sigma(-y\,\theta\cdot x)\,y\,x$. Use
# `worst` for x.
#
# </details>


# %% tags=["exercise"]
def my_gradient(theta, images, labels, epsilon):
    """The gradient of the worst-case loss with respect to theta, for each sample: (n, d)."""
    # >>> answer
    signed = labels[:, None] * worst(theta, images, labels, epsilon)
    return -torch.sigmoid(-signed @ theta)[:, None] * signed
    # >>> stub
    # return None
    # <<<


# %%
gradient = my_gradient if checks.check_2_3(my_gradient) else checks.worst_gradient
wide, targets, point = images.double(), labels.double(), theta.double()
way = torch.tensor([0.3, -0.7], dtype=torch.float64)
ahead, behind = (worst_loss(point + h * way, wide, targets, 0.1).sum() for h in (1e-5, -1e-5))
print("slope by Danskin:     ", float(gradient(point, wide, targets, 0.1).sum(0) @ way))
print("slope by a small step:", float((ahead - behind) / 2e-5))

# %% [markdown]
# ## Danskin on a network
#
# The theorem asks for an exact maximum and a smooth loss. The authors say so:
#
# > "The conditions under which Danskin's theorem hold might not be satisfied for neural networks
# > in general." (section 3.3.1)
#
# So we measure, on a network that was trained against attacks. We move all its weights a little
# along a random direction, attack *again*, and see how the loss of the attacked images changes.
# Against it stands the change with the adversarial images held fixed, which is what eq. (18)
# differentiates.
#
# **Prediction.** By how many percent do the two changes differ with the most careful attack?

# %%
prediction = None  # your guess, in percent

# %%
sturdy = course.train(AdversarialTraining(PGD("linf", 0.1, 0.04, 5)), course.size(10, 1)).model
sturdy, (x, y) = sturdy.double(), course.unseen(32)
weights = torch.nn.utils.parameters_to_vector(sturdy.parameters()).detach()
ways = torch.randn(4, len(weights), generator=torch.Generator().manual_seed(5)).double()
ways = 0.01 * ways / ways.norm(dim=1, keepdim=True)


def change(attack, way):
    """How the loss of what `attack` gives changes from the weights minus `way` to plus `way`."""
    losses = []
    for vector in (weights + way, weights - way, weights):
        torch.nn.utils.vector_to_parameters(vector, sturdy.parameters())
        losses.append(cross_entropy(sturdy(attack(sturdy, x.double(), y)), y).item())
    return losses[0] - losses[1]


# %%
differences = {}
for steps in course.size((1, 3, 10, 30, 90), (1, 3)):
    attack = PGD("l2", 0.25, 0.25 * min(1, 2.5 / steps), steps, random_start=False)
    held = attack(sturdy, x.double(), y)
    again = torch.tensor([change(attack, way) for way in ways])
    fixed = torch.tensor([change(lambda *_, held=held: held, way) for way in ways])
    differences[steps] = 100 * float((again - fixed).norm() / again.norm())
plt.semilogx(list(differences), list(differences.values()), **course.LOOKS["gradmatch"])
plt.gca().set(xlabel="steps of the attack", ylabel="the changes differ, %", ylim=(0, None))
plt.show()
course.predicted(prediction, list(differences.values())[-1], "The changes differ by", " %")

# %% [markdown]
# With a sloppy maximum the two changes disagree. With a careful one they come close, though never
# as close as in the linear case. The curve may rise on its way down, here at 30 steps: of 32 images
# two are enough for that, if the second attack on them ends on another hill. And this is a kind
# example: a round ball of radius 0.25 has few hills. With `"linf"` and epsilon 0.1 in its place the
# second attack often ends on another hill, and the agreement is gone. Try it.
#
# So for networks Danskin's theorem is a rule that works, not a law. Adversarial training uses it
# all the same: attack, then treat the attacked image as data. The coresets of the next lessons do
# so, too.
#
# ## The training loop
#
# ### Exercise 2.4
#
# One step of adversarial training: attack the batch, then one ordinary step on the attacked
# batch.
#
# <details><summary>Hint</summary>
#
# `attack(model, images, labels)`; `cross_entropy(...)`; `optimiser.zero_grad()`;
# `loss.backward()`; `optimiser.step()`; return `loss.item()`.
#
# </details>


# %% tags=["exercise"]
def my_step(model, optimiser, attack, images, labels):
    """One step on the attacked images; gives the mean loss that it found, as a float."""
    # >>> answer
    adversarial = attack(model, images, labels)
    loss = cross_entropy(model(adversarial), labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()
    # >>> stub
    # return None
    # <<<


# %%
step = my_step if checks.check_2_4(my_step) else checks.adversarial_step
course.show(AdversarialTraining, frozen)

# %% [markdown]
# The library splits the same step in two, `perturb` and `loss`, so that it can time them. While
# it attacks, the network is `frozen`.
#
# **Prediction.** We train one network with your step and one without attacks. At epsilon 0.1 the
# ordinary one keeps about 12 %. How many percent does yours keep?

# %%
prediction = None  # your guess, in percent

# %%
attack = PGD("linf", 0.1, 0.04, 5, generator=torch.Generator().manual_seed(0))
train, robust_model = course.digits().train, course.network()
optimiser = torch.optim.SGD(robust_model.parameters(), 0.1, momentum=0.9)
for epoch in range(course.size(10, 1)):
    for group in optimiser.param_groups:
        group["lr"] = 0.1 if epoch < 7 else 0.01
    for rows in torch.randperm(len(train), generator=generator).split(64):
        step(robust_model, optimiser, attack, train.float_images(rows), train.labels[rows])
robust_model.eval()
course.predicted(prediction, course.robust(robust_model), "Right at epsilon 0.1", " %")

# %%
epsilons = [0.0, 0.05, 0.1, 0.15, 0.2]
ordinary = course.train(Vanilla(), course.size(10, 2)).model
for name, net, look in (("ordinary", ordinary, "full"), ("robust", robust_model, "gradmatch")):
    plt.plot(epsilons, [course.robust(net, e) for e in epsilons], label=name, **course.LOOKS[look])
plt.axvline(0.1, color=course.GREY, linestyle=":")
plt.gca().set(xlabel="epsilon of the attack", ylabel="right, %", title="Trained at epsilon 0.1")
plt.legend()
plt.show()

# %% [markdown]
# The robust network holds where it was trained, and a little beyond. On these digits it pays
# nothing for it on clean images. On harder data it does: the paper's fully trained ResNet-18
# reaches 83.14 % and 85.41 % on clean CIFAR-10 (Table 1), where ordinary training of such a
# network reaches well above 90 %.
#
# ## What it costs
#
# > "it needs to construct adversarial examples for the entire training data at every iteration"
# > (Abstract)
#
# ### Exercise 2.5
#
# Count a forward and a backward pass as one. How many times as many passes as vanilla training
# does PGD training with 10 steps take?
#
# <details><summary>Hint</summary>
#
# Look at `my_step`: how many passes does the attack take, and how many the line that learns?
#
# </details>

# %% tags=["exercise"]
# >>> answer
my_factor = 11
# >>> stub
# my_factor = None
# <<<

# %%
right = checks.check_2_5(my_factor)

# %% [markdown]
# Two ways lead out. One makes the attack cheaper: fast adversarial training takes one step. The
# paper takes the other one: keep the attack, and train on **fewer images**. Which ones? That is
# the rest of this course.
#
# ## Quiz
#
# 1. Why may we hold the adversarial image fixed when we differentiate?
# 2. What does adversarial training add to the loss of a linear classifier under a limit on each
#    pixel?
# 3. Where does the worst-case loss have no gradient?
# 4. You train with a one-step attack and find 90 % under the same attack. What do you check next?
#
# <details><summary>Answers</summary>
#
# 1. By Danskin's theorem: at a maximum, the effect of moving the maximiser vanishes to first
#    order.
# 2. A penalty: epsilon times the sum of |θ| comes off every margin.
# 3. Where two different images are equally bad, as at the crossing of two curves.
# 4. A stronger attack. Networks can learn to fool a one-step attack; the paper calls it
#    catastrophic overfitting (section 1).
#
# </details>
#
# **Next:** [Lesson 3](03_last_layer_gradients.ipynb) asks what a gradient of one image looks
# like.
