"""Topic models: parts, completion, coherence, diversity and summaries, against what is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

import pyro_vae as pv
from pyro_vae.data import bag_of_words, sentences
from pyro_vae.evaluation import (
    coherence,
    complete,
    completion,
    diversity,
    representative,
    top_words,
)
from pyro_vae.networks import TopicDecoder


def planted(documents: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of 20 words in documents about 4 topics, of five words each, and two halves."""
    random = np.random.default_rng(seed)
    topics = (np.kron(np.eye(4), np.ones(5)) + 0.02) / (5 + 20 * 0.02)
    shares = random.dirichlet(np.full(4, 0.3), documents) @ topics
    halves = [np.stack([random.multinomial(30, p) for p in shares]) for _ in range(2)]
    return shares, *(each.astype(np.float32) for each in halves)


def test_a_logistic_normal_is_the_laplace_approximation_of_a_dirichlet() -> None:
    """By its formula for any concentration, of MacKay (1998): each variance, and a mean of 0."""
    size, alpha = 7, 0.4
    d = pv.priors.LogisticNormal(size, alpha)()
    variance = 1 / alpha * (1 - 2 / size) + size / alpha / size**2
    torch.testing.assert_close(d.variance, torch.full((size,), variance))
    assert torch.equal(d.mean, torch.zeros(size))
    for bad in (0, -1.0, math.inf, True):
        with pytest.raises(ValueError, match="`concentration`: expected a positive number"):
            pv.priors.LogisticNormal(3, bad)
    with pytest.raises(ValueError, match="`dim`: expected at least 2"):
        pv.priors.LogisticNormal(1)


def test_forms_of_the_decoder_are_their_formulas() -> None:
    z, theta = torch.randn(6, 3), None
    for form in ("product", "mixture"):
        net = TopicDecoder(form)
        net.build((3,), (5,))
        background = torch.randn(5)
        net.start_at(background)
        theta, matrix = z.softmax(-1), net.weight.detach()
        found = net(z).softmax(-1)
        if form == "product":
            expected = (theta @ matrix + background).softmax(-1)
        else:
            expected = theta @ (matrix + background).softmax(-1)
        torch.testing.assert_close(found, expected)
        # A topic is what an observation has that is about it alone.
        alone = net(60 * torch.eye(3)).log_softmax(-1)
        torch.testing.assert_close(net.topics(), alone)
        assert net.training
    net = TopicDecoder(embedding_dim=2)
    net.build((3,), (5,))
    torch.testing.assert_close(
        net.topics(), (net.weight @ net.words.T + net.bias).log_softmax(-1).detach()
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"form": "sum"}, "`form`: expected one of product, mixture"),
        ({"form": "mixture", "norm": "batch"}, "`norm`: expected None with a mixture"),
        ({"embedding_dim": 0}, "`embedding_dim`: expected a positive integer"),
        ({"dropout": 1.0}, "`dropout`: expected a number from 0 to less than 1"),
        ({"norm": "group"}, "`norm`: expected one of batch, layer"),
    ],
)
def test_what_a_decoder_refuses(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TopicDecoder(**options)


def test_a_condition_adds_to_the_logits() -> None:
    net = TopicDecoder("mixture")
    net.build((3,), (5,), 2)
    z, cond = torch.randn(4, 3), torch.tensor([[0.0, 1.0]]).expand(4, 2)
    difference = net(z, cond) - net(z, torch.zeros(4, 2))
    torch.testing.assert_close(difference, net.of_cond.weight[:, 1].expand(4, 5))


def test_completion_is_the_perplexity_of_its_definition() -> None:
    probs = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    counts = np.array([[2, 1, 0], [0, 0, 3]])
    found = completion(probs, counts)
    log_prob = [2 * math.log(0.5) + math.log(0.25), 3 * math.log(0.8)]
    np.testing.assert_allclose(found.log_prob, log_prob)
    assert found.perplexity == pytest.approx(math.exp(-sum(log_prob) / 6))
    assert found.words.tolist() == [3, 3]
    # Documents of one length: the error is that of a mean.
    nats = -np.array(log_prob) / 3
    assert found.nats_standard_error == pytest.approx(nats.std(ddof=1) / math.sqrt(2))
    assert found.standard_error == pytest.approx(found.perplexity * found.nats_standard_error)
    assert math.isnan(completion(probs[:1], counts[:1]).standard_error)
    assert completion(np.array([[1.0, 0.0]]), np.array([[3, 0]])).perplexity == 1
    assert completion(np.array([[1.0, 0.0]]), np.array([[3, 1]])).log_prob[0] == -math.inf


def test_the_error_of_a_perplexity_is_its_spread() -> None:
    """Over 400 corpora of 100 documents; the spread has an error of 3.5%, and so 15% is above 4."""
    random = np.random.default_rng(0)
    probs = np.array([0.6, 0.3, 0.1])
    found = []
    for _ in range(400):
        lengths = random.poisson(20, 100) + 1
        about = random.dirichlet(5 * probs, 100)
        counts = np.stack([random.multinomial(n, p) for n, p in zip(lengths, about, strict=True)])
        found.append(completion(np.tile(probs, (100, 1)), counts))
    spread = np.std([each.perplexity for each in found])
    assert np.mean([each.standard_error for each in found]) == pytest.approx(spread, rel=0.15)


def test_coherence_is_npmi_of_documents() -> None:
    """Words 0 and 1 are in 2 of 4 documents each, together in one; 2 is alone, 3 everywhere."""
    reference = np.array([[2, 1, 0, 1], [1, 0, 0, 3], [0, 4, 0, 1], [0, 0, 1, 1]])
    one = math.log(0.25 / (0.5 * 0.5)) / -math.log(0.25)  # as often as by chance
    found = coherence(np.array([[0, 1], [0, 2], [0, 3]]), reference)
    np.testing.assert_allclose(found, [one, -1.0, 0.0], atol=1e-12)
    assert coherence(np.array([[3, 3]]), reference)[0] == 1  # in every document, both of them
    # Neither by chance nor always or never: in 3 and in 2 of 5 documents, together in 2.
    some = coherence(np.array([[0, 1]]), np.array([[1, 1], [1, 2], [4, 0], [0, 0], [0, 0]]))[0]
    assert some == pytest.approx(math.log(0.4 / (0.6 * 0.4)) / -math.log(0.4))
    three = coherence(np.array([[0, 1, 2]]), reference)[0]
    assert three == pytest.approx((one - 1 - 1) / 3)
    assert diversity(np.array([[0, 1, 2], [2, 3, 4]])) == pytest.approx(5 / 6)
    log_topics = np.log(np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]]))
    assert top_words(log_topics, 2).tolist() == [[1, 2], [0, 2]]


def test_what_measures_of_topics_refuse() -> None:
    good = np.full((2, 4), 0.25)
    for call, match in (
        (lambda: completion(good, np.ones((2, 3))), "`probs`: expected shape"),
        (lambda: completion(good / 2, np.ones((2, 4))), "`probs`: expected probabilities"),
        (lambda: completion(good, np.zeros((2, 4))), "`x`: expected counts of words"),
        (lambda: top_words(good, 5), "`count`: expected at most 4"),
        (lambda: coherence(np.array([[0]]), good), "`words`: expected at least two"),
        (lambda: coherence(np.array([[0, 4]]), good), "`words`: expected places of the 4"),
        (lambda: coherence(np.array([[0, 1]]), np.zeros((0, 4))), "`reference`: expected counts"),
        (lambda: diversity(np.array([[0.5]])), "`words`: expected places"),
        (lambda: diversity(np.array([[-1]])), "`words`: expected places from 0 on, got -1"),
        (lambda: representative(np.ones((2, 3)), np.ones(2)), "`target`: expected shape"),
        (lambda: representative(np.ones((2, 3)), np.zeros(3)), "`target`: expected probabilities"),
        (lambda: representative(np.eye(1, 3), np.eye(1, 3, 1)[0]), "`sentences`: expected at"),
        (lambda: representative(-np.ones((2, 3)), np.ones(3)), "`sentences`: expected counts"),
        (lambda: completion(good, np.full((2, 4), np.inf)), "`x`: expected counts of words"),
        (lambda: bag_of_words("one text", ["a"]), "`texts`: expected a list"),
        (lambda: bag_of_words(["one"], []), "`vocabulary`: expected words"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.mark.parametrize("form", ["product", "mixture"])
def test_planted_topics_are_recovered(form: str) -> None:
    """Each fitted topic's five words are those of one planted topic, and each is found once.

    The perplexity is above that of the truth, and less than half of the way to the marginal's.
    """
    _, x, _ = planted(600, 0)
    vae = pv.VAE(
        pv.priors.LogisticNormal(4, 0.5),
        pv.guides.Normal(4),
        pv.likelihoods.Multinomial((20,)),
        encoder=pv.networks.MLP((32,), norm="batch"),
        decoder=TopicDecoder(form, norm="batch" if form == "product" else None),
        seed=1,
    )
    pv.fit(vae, x, epochs=40, batch_size=60, lr=2e-2, schedule="cosine", seed=1, compile=False)
    words = top_words(vae.decoder.topics(), 5)
    assert sorted(map(sorted, words.tolist())) == np.arange(20).reshape(4, 5).tolist()
    assert diversity(words) == 1
    truth, seen, held_out = planted(400, 1)
    found = complete(vae, seen, held_out, num_samples=20)
    least, marginal = completion(truth, held_out).nats, math.log(20)
    assert least < found.nats < (least + marginal) / 2
    # Words are together because of topics: those of different ones are not.
    assert coherence(words, x).min() > coherence(words.T.copy(), x).max()
    again = complete(vae, seen, held_out, num_samples=20)
    assert np.array_equal(found.log_prob, again.log_prob)


def test_completion_sees_nothing_of_the_words_it_scores() -> None:
    """Whatever is to be scored, probabilities are those that what was seen gives."""
    vae = pv.VAE(
        pv.priors.LogisticNormal(3), pv.guides.Normal(3), pv.likelihoods.Multinomial((4,)),
        decoder=TopicDecoder(), seed=0,
    )  # fmt: skip
    seen = torch.tensor([[3.0, 0, 1, 0]]).repeat(4, 1)
    one = complete(vae, seen, 5 * torch.eye(4), num_samples=400).log_prob / 5
    # Over words of one and the same document they add up to one, with an error of the draws.
    assert np.exp(one).sum() == pytest.approx(1, abs=0.02)
    other = [complete(vae, seen[:1], k * torch.eye(4)[:1], num_samples=9) for k in (1, 7)]
    assert other[1].log_prob == pytest.approx(7 * other[0].log_prob)
    assert other[1].nats == pytest.approx(other[0].nats)


def test_measures_take_tensors_of_any_kind() -> None:
    topics = torch.tensor([[0.25, 0.5, 0.125]], requires_grad=True)
    assert top_words(topics, 2).tolist() == [[1, 0]]
    assert top_words(topics.bfloat16(), 2).tolist() == [[1, 0]]
    assert top_words(np.array([[0, 5, 3]], dtype=np.uint8), 2).tolist() == [[1, 2]]
    assert completion(np.array([[1 - 1e-320, 1e-320]]), np.eye(1, 2, 1)).perplexity == math.inf


def test_completion_needs_counts_and_as_many_documents() -> None:
    parts = pv.priors.Normal(2), pv.guides.Normal(2)
    bernoulli = pv.VAE(*parts, pv.likelihoods.Bernoulli((4,)))
    with pytest.raises(ValueError, match="`vae`: expected a VAE of counts"):
        complete(bernoulli, torch.ones(2, 4), torch.ones(2, 4))
    vae = pv.VAE(*parts, pv.likelihoods.Multinomial((4,)))
    with pytest.raises(ValueError, match="`x`: expected 2 observations"):
        complete(vae, torch.ones(2, 4), torch.ones(3, 4))


def test_sentences_are_chosen_once_and_not_repeated() -> None:
    target = np.array([0.5, 0.3, 0.1, 0.1])
    said = np.array([[3, 0, 0, 0], [3, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]])
    assert representative(said, target, 3) == [0, 2, 4]
    every = representative(said, target, 10)
    assert sorted(every) == [0, 1, 2, 4]  # the empty one has nothing to say


def test_texts_are_split_and_counted() -> None:
    text = 'He left. "Why?" she asked. It\nwas 3 p.m. on a day.\n\nAn end'
    assert sentences(text) == ["He left.", '"Why?" she asked.', "It was 3 p.m. on a day.", "An end"]
    assert bag_of_words(["Sea, sea! The SEA-side."], ["sea", "the", "sea-side"]).tolist() == [
        [2.0, 1.0, 1.0]
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('He said "Go." Then (see it.) OK', ['He said "Go."', "Then (see it.)", "OK"]),
        ("I met Mr. Smith. J. R. Roe ran", ["I met Mr. Smith.", "J. R. Roe ran"]),
        ("Он ушёл. Она осталась. Žižek", ["Он ушёл.", "Она осталась.", "Žižek"]),
        ("Plan A.\n\nB", ["Plan A.", "B"]),
        ("It blew.\n\nships", ["It blew.", "ships"]),
        ("\n ... \n", []),
        ("no stop", ["no stop"]),
    ],
)
def test_sentences_end_where_readers_end_them(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


def test_words_are_found_however_they_are_written() -> None:
    text = "NASA isn’t in a cafe\u0301"
    assert bag_of_words([text], ["NASA", "isn't", "café"]).tolist() == [[1.0, 1.0, 1.0]]
    assert bag_of_words(["Polish it"], ["polish", "Polish"]).tolist() == [[1.0, 0.0]]


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    matrix = sparse.csr_matrix(planted(30, 2)[1].astype(np.int32))
    sparse.save_npz(tmp_path / "posts.npz", matrix)
    (tmp_path / "words.txt").write_text("\n".join(f"w{i}" for i in range(20)) + "\n")
    return tmp_path


def test_sparse_matrices_and_names_of_words_are_read(posts: Path) -> None:
    x = planted(30, 2)[1]
    data = pv.data.load(posts / "posts.npz", names=posts / "words.txt", validation=0, test=0)
    assert torch.equal(data.train, torch.from_numpy(x))
    assert list(data.names) == [f"w{i}" for i in range(20)]
    sparse.save_npz(posts / "columns.npz", sparse.csc_matrix(x))
    columns = pv.data.load(posts / "columns.npz", validation=0, test=0)
    assert torch.equal(columns.train, data.train)
    sparse.save_npz(posts / "array.npz", sparse.csr_array(x > 0))
    array = pv.data.load(posts / "array.npz", validation=0, test=0)
    assert torch.equal(array.train, torch.from_numpy(x > 0).float())
    # New data of the same kind have their names.
    again = pv.data.load(posts / "columns.npz", like=data)
    assert list(again.names) == list(data.names)
    assert pv.data.load(x, names=list("abcdefghijklmnopqrst")).names[3] == "d"


def test_names_and_sparse_matrices_that_are_refused(posts: Path) -> None:
    x = np.ones((9, 3))
    (posts / "blank.txt").write_bytes(b"a\r\n\r\nc\r\n")
    (posts / "bad.txt").write_bytes(b"\xff\xfe\xff")
    for names, match in (
        (["a", "b"], "`names`: expected 3 names"),
        (["a", "b", "a"], "`names`: expected each name once, got 'a'"),
        ([1, 2, 3], "`names`: expected words"),
        (["a", " ", "c"], "`names`: expected words"),
        ({"a", "b", "c"}, "`names`: expected a list of words, in the order"),
        (5, "`names`: expected a list of words"),
        (posts / "blank.txt", "`names`: expected a name on each line, got 'none on line 2"),
        (posts / "none.txt", "`names`: expected an existing text file"),
        (posts / "bad.txt", "`names`: expected a text file in UTF-8"),
    ):
        with pytest.raises(ValueError, match=match):
            pv.data.load(x, names=names)
    with pytest.raises(ValueError, match="`names`: expected none of images"):
        pv.data.load(np.ones((9, 1, 2, 2)), names=["a"])
    with pytest.raises(ValueError, match="`key`: expected None, as a sparse matrix"):
        pv.data.load(posts / "posts.npz", key="data")
    with np.load(posts / "posts.npz") as archive:
        arrays = dict(archive)
    for name, value in (
        ("indices", arrays["indices"] + 100),
        ("indices", -arrays["indices"]),
        ("indices", arrays["indices"] + 0.5),
        ("shape", np.array(30)),
        ("format", np.array("other")),
    ):
        np.savez(posts / "damaged.npz", **arrays | {name: value})
        with pytest.raises(ValueError, match="`data`: expected a NumPy file"):
            pv.data.load(posts / "damaged.npz")
    for form in ("coo", "bsr", "dia"):
        sparse.save_npz(posts / "other.npz", sparse.csr_matrix(x).asformat(form))
        with pytest.raises(ValueError, match=f"`tocsr` makes one .* got '{form} in"):
            pv.data.load(posts / "other.npz")


def test_a_mixture_without_any_topic_has_finite_logits() -> None:
    """Where all topics of an observation are left out, which of two happens often."""
    net = pv.networks.TopicDecoder("mixture", dropout=0.9)
    net.build((2,), (5,))
    logits = net(torch.zeros(64, 2, requires_grad=True))
    assert logits.isfinite().all()
    assert (logits == logits[:, :1]).all(1).any(), "some have none"
    logits.sum().backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in net.parameters())
