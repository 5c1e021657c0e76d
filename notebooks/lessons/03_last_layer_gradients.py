# %% [markdown]
# # Lesson 3. What one image would teach: last-layer gradients
#
# **Afterwards you can** derive the gradient of the last layer, work with thousands of gradients
# without forming one, write the paper's eq. (18), and say how well the last layer stands for the
# whole network.
#
# **You need** [Lesson 2](02_adversarial_training.ipynb), and matrix products.
#
# **Minutes:** 55.

# %%
import checks
import course
import matplotlib.pyplot as plt
import torch
from torch.nn.functional import cross_entropy, one_hot

from acslib import selectors
from acslib.attacks import PGD
from acslib.gradients import LastLayerGradients
from acslib.objectives import AdversarialTraining, Vanilla

# %% [markdown]
# ## Why gradients
#
# A coreset is a small weighted part of the data that teaches a network what all the data would.
# What a sample teaches at this moment *is* its gradient. So the paper asks for samples and
# weights whose gradients add up to everyone's:
#
# > "we must attempt to find a subset of the data that can approximate the full gradient" (section
# > 3.2)
#
# $$\min_{S,\gamma}\ \Big\|\sum_{i\in V} g_i - \sum_{j\in S}\gamma_j g_j\Big\|
# \qquad\text{(eq. 12)}$$
#
# A network has millions of weights, so each $g_i$ has millions of entries. The way out:
#
# > "it is common to replace the exact gradients in Eqs. (18) and (22) with their last-layer
# > approximation" (section 3.4)
#
# ## The last layer, by hand
#
# The last layer gets features $h$ and gives logits $z = Wh + b$. The loss is the cross-entropy of
# $\mathrm{softmax}(z)$ against the label. We go backwards, step by step.
#
# ### Exercise 3.1
#
# The gradient of each sample's loss with respect to its logits. Call it the **error** $e_i$.
#
# <details><summary>Hint</summary>
#
# The loss is $\log\sum_c e^{z_c} - z_y$. The slope of the first term is the softmax. The second
# one has slope 1 at the right class, `one_hot(labels, classes)`.
#
# </details>


# %% tags=["exercise"]
def my_errors(logits, labels):
    """d loss_i / d logits_i for every sample: (n, C)."""
    # >>> answer
    return logits.softmax(1) - one_hot(labels, logits.shape[1])
    # >>> stub
    # return None
    # <<<


# %%
errors = my_errors if checks.check_3_1(my_errors) else checks.errors

# %% [markdown]
# ### Exercise 3.2
#
# Now the weights. $z_c = \sum_d W_{cd} h_d + b_c$, so $\partial\,\text{loss}/\partial W_{cd} =
# e_c h_d$, and $\partial\,\text{loss}/\partial b_c = e_c$. Put both into one matrix for one
# sample, the bias in the last column.
#
# <details><summary>Hint</summary>
#
# `torch.outer(error, ...)` with the features and a 1 behind them: `torch.cat([features,
# features.new_ones(1)])`.
#
# </details>


# %% tags=["exercise"]
def my_outer(error, features):
    """One sample's gradient (C, D + 1). error: (C,), features: (D,)."""
    # >>> answer
    return torch.outer(error, torch.cat([features, features.new_ones(1)]))
    # >>> stub
    # return None
    # <<<


# %%
outer = my_outer if checks.check_3_2(my_outer) else checks.outer

# %% [markdown]
# Does it agree with autograd? We compare on a trained network.

# %%
attack = PGD("linf", 0.1, 0.04, 5, generator=torch.Generator().manual_seed(0))
model = course.train(AdversarialTraining(attack), course.size(8, 1)).model
train = course.digits().train
images, labels = train.float_images(slice(0, course.size(300, 60))), train.labels
labels = labels[: len(images)]
features = model.features(images).detach()
by_hand = outer(errors(model.head(features), labels)[0], features[0]).detach()
loss = cross_entropy(model(images[:1]), labels[:1])
parts = torch.autograd.grad(loss, list(model.head.parameters()))
by_autograd = torch.cat([part.view(10, -1) for part in parts], 1)
print("largest difference:", float((by_hand - by_autograd).abs().max()))
course.show(Vanilla.gradients)

# %% [markdown]
# ## Never form a gradient
#
# Selectors need inner products $\langle g_i, g_j\rangle$ and sums, not the gradients themselves.
# The inner product of two outer products factors:
#
# $$\langle g_i, g_j\rangle = \langle e_i, e_j\rangle\,(\langle h_i, h_j\rangle + 1)$$
#
# ### Exercise 3.3
#
# All inner products at once, from the two factors.
#
# <details><summary>Hint</summary>
#
# `errors @ errors.T` holds all $\langle e_i, e_j\rangle$. The 1 is the bias.
#
# </details>


# %% tags=["exercise"]
def my_gram(errors, features):
    """<g_i, g_j> for all pairs, (n, n). errors: (n, C), features: (n, D)."""
    # >>> answer
    return (errors @ errors.T) * (features @ features.T + 1)
    # >>> stub
    # return None
    # <<<


# %%
gram = my_gram if checks.check_3_3(my_gram) else checks.gram
course.show(LastLayerGradients.total)

# %% [markdown]
# ### Exercise 3.4
#
# ImageNet-100 with a ResNet-50 has 100 classes and 2,048 features. A gradient has 100 · 2,049
# entries. The two factors together have 100 + 2,048. How many times smaller are the factors?
#
# <details><summary>Hint</summary>
#
# One division. The answer may be off by two percent.
#
# </details>

# %% tags=["exercise"]
# >>> answer
my_ratio = 100 * 2049 / (100 + 2048)
# >>> stub
# my_ratio = None
# <<<

# %%
right = checks.check_3_4(my_ratio)

# %% [markdown]
# ## The adversarial part
#
# So far nothing was attacked. The paper changes one thing only:
#
# > "one needs to add a pre-processing step to the gradient computation" (section 3.3.1)
#
# $$\nabla_\theta\Phi(f_\theta; x, y)
# \approx\nabla_\theta\mathcal L_{CE}(f_\theta(x_{adv}), y)\qquad\text{(eq. 18)}$$
#
# By Danskin's theorem the adversarial image is found first and then held fixed.
#
# ### Exercise 3.5
#
# Write eq. (18) with the last layer: attack, features, errors.
#
# <details><summary>Hint</summary>
#
# `model.features(images)` gives the features, `model.head(features)` the logits. Both factors
# belong to the attacked images. Nothing here needs autograd: use `torch.no_grad()`.
#
# </details>


# %% tags=["exercise"]
def my_gradients(model, images, labels, attack):
    """Eq. (18) for every image, as LastLayerGradients(errors, features)."""
    # >>> answer
    adversarial = attack(model, images, labels)
    with torch.no_grad():
        features = model.features(adversarial)
        return LastLayerGradients(errors(model.head(features), labels), features)
    # >>> stub
    # return None
    # <<<


# %%
right = checks.check_3_5(my_gradients)
gradients = my_gradients if right else checks.adversarial_gradients

# %% [markdown]
# ## How well does the last layer stand for the network?
#
# The paper says it "has been shown to work well in practice" (section 3.4). We look. For 300
# training images we compute both: last-layer gradients, and gradients of *all* weights. If the
# two tell the same story, then pairs of images that are alike in one are alike in the other.
#
# **Prediction.** The correlation between the two sets of cosines, from 0 (nothing in common) to 1
# (the same)?

# %%
prediction = None  # your guess, between 0 and 1


# %%
def whole(net, images, labels):
    """The gradient of each image's loss with respect to every weight of the network, (n, p)."""
    held = {name: p.detach() for name, p in net.named_parameters()}
    buffers = dict(net.named_buffers())

    def loss(parameters, image, label):
        logits = torch.func.functional_call(net, (parameters, buffers), (image[None],))
        return cross_entropy(logits, label[None])

    parts = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(held, images, labels)
    return torch.cat([part.flatten(1) for part in parts.values()], 1)


# %%
def cosines(inner):
    """The cosine of every pair i < j, from their inner products."""
    length = inner.diagonal().clamp_min(1e-30).sqrt()
    pairs = torch.triu_indices(len(inner), len(inner), 1)
    return (inner / length[:, None] / length)[pairs[0], pairs[1]]


last = gradients(model, images, labels, attack)
everything = whole(model, attack(model, images, labels), labels)
one, other = cosines(gram(last.errors, last.features)), cosines(everything @ everything.T)
plt.hexbin(one, other, gridsize=45, bins="log", cmap="cividis", extent=(-1, 1, -1, 1))
plt.gca().set(xlabel="cosine of last-layer gradients", ylabel="cosine of whole gradients")
plt.show()
course.predicted(prediction, float(torch.corrcoef(torch.stack([one, other]))[0, 1]), "Correlation")

# %% [markdown]
# Each pair of images is a point; bright cells hold many. On the right are pairs that pull the
# last layer the same way, and they mostly pull the whole network the same way, too. Around 0 the
# last layer sees nothing in common, and the whole network may see anything from -0.6 to 0.6. So
# the last layer sees the strong likenesses and misses the weak ones.
#
# Is that enough to select by? We choose 10 % of the images by their last-layer gradients, with
# the method of Lesson 5, and measure the error of eq. (12) on both kinds of gradients. We do so
# for networks of different age. The slider draws what was computed beforehand.
#
# **Before you look:** will the last layer be a better guide for an untrained or for a trained
# network?

# %%
aged, ages = {}, course.size([0, 1, 3, 8], [0, 1])
networks = {0: course.network().eval()}
for age in ages[1:]:
    networks[age] = course.train(AdversarialTraining(attack), age).model
for age, net in networks.items():
    last, adversarial = gradients(net, images, labels, attack), attack(net, images, labels)
    everything = whole(net, adversarial, labels)
    chosen = selectors.gradmatch(last, len(images) // 10)
    kinds = (last, everything)
    aged[age] = [selectors.gradient_error(kind, chosen)[1] for kind in kinds]
    aged[age] += [course.random_error(kind, len(chosen)) for kind in kinds]


# %%
def draw(axis, age):
    heights = aged[age]
    axis.bar([0, 1], heights[:2], 0.35, color=course.BLUE, hatch="//", label="GradMatch")
    axis.bar([0.4, 1.4], heights[2:], 0.35, color=course.GREY, label="random")
    axis.set_xticks([0.2, 1.2], ["last layer", "all weights"])
    top = 1.4 * max(map(max, aged.values()))
    axis.set(ylim=(0, top), ylabel="relative error of eq. (12)")
    axis.legend(ncols=2, loc="upper center", fontsize=8)


course.slider(draw, "epochs", ages, ages)

# %% [markdown]
# In the last layer, where it was chosen, the coreset's error is small. On all weights it is about
# one and a half to four times as large, and still far below that of random subsets (the mean of
# twenty). An error of 1 is what an empty coreset has: on all weights a random tenth of the images
# is not much better than that, or worse.
#
# For which network is the last layer the better guide, then? Divide the two blue bars. Before
# training and after one epoch, all weights have about three to four times the last layer's error;
# after three and eight epochs about twice. So for the trained network, in this sense. Beside random
# subsets its age shows no trend: on all weights GradMatch's error is a fifth to two fifths of
# theirs, for the untrained network as well.
#
# Keep two doubts for Lesson 9. The error is measured *at the moment of selection*: the network
# then trains for several epochs on the same coreset. And it is measured on the plain images,
# while training shifts them by a pixel now and then.
#
# ## Quiz
#
# 1. When is a sample's last-layer gradient zero?
# 2. Why is the inner product of two gradients large only if errors *and* features are alike?
# 3. What does eq. (18) cost more than its vanilla twin?
# 4. Somebody selects by the bias part alone. What can no longer be told apart?
#
# <details><summary>Answers</summary>
#
# 1. When its error is: the network is right and certain.
# 2. It is a product of two inner products. If either is near zero, so is the product.
# 3. One attack on every training image, for each selection.
# 4. Samples with the same error: all images of a class that the network is equally sure about,
#    whatever they show.
#
# </details>
#
# **Next:** [Lesson 4](04_craig.ipynb) chooses samples that stand for their neighbours.
