"""The zoo, first part: kinds of models."""

import torch
from torch import nn
from torch.nn.utils import parametrizations, rnn


def test_mlp(check):
    run = check(
        lambda: (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(16, 4)),
        names=["input", "0", "1", "2"],
    )
    assert run.head == "2"


def test_single_module(check):
    run = check(lambda: (nn.Linear(4, 2), torch.randn(5, 4)), names=["input", "Linear"])
    assert run.head == "Linear"


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(True)
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(True)

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        y += x
        return self.relu2(y)


def test_residual_convolutions_with_relu_in_place(check):
    run = check(
        lambda: (
            nn.Sequential(Residual(), Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)),
            torch.randn(4, 2, 6, 6),
        )
    )
    assert float(run["train"]["min"].sel(layer="0.bn1").min()) < 0


def test_lstm(check):
    check(
        lambda: (nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3)),
        names=["input", "LSTM:0", "LSTM:1:0", "LSTM:1:1"],
    )


def test_gru_on_a_packed_sequence(check):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.fc = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x, lengths):
            packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.fc(self.gru(packed)[1][-1])

    run = check(lambda: (Net(), torch.randn(3, 5, 3), torch.tensor([2, 5, 3])))
    assert int(run["train"].n.sel(layer="gru:0")[0]) == (2 + 5 + 3) * 4


class Encoder(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
        self.encoder, self.fc = nn.TransformerEncoder(layer, 2), nn.Linear(8, 2)

    def forward(self, x, mask):
        return self.fc(self.encoder(x, src_key_padding_mask=mask)[:, 0])


def test_transformer_encoder(check):
    mask = torch.tensor([[False] * 4, [False, False, True, True]])
    run = check(lambda: (Encoder(0.1), torch.randn(2, 4, 8), mask))
    assert run.layers.never_called["encoder.layers.0.self_attn.out_proj"]


def test_multihead_attention_never_calls_its_projection(check):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x)[0]

    run = check(
        lambda: (Net(), torch.randn(2, 3, 8)),
        layers=["input", "attention.*"],
        names=["input", "attention.out_proj"],
    )
    assert run.layers.never_called["attention.out_proj"]


def test_text_classifier(check):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.fc = nn.Embedding(20, 4, padding_idx=0), nn.Linear(4, 2)

        def forward(self, tokens):
            return self.fc(self.embedding(tokens).mean(1))

    check(lambda: (Net(), torch.randint(0, 20, (3, 6))), names=["embedding", "fc"])


def test_embedding_bag(check):
    check(
        lambda: (
            nn.Sequential(nn.EmbeddingBag(20, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
            torch.randint(0, 20, (3, 6)),
        )
    )


def test_tabular_model_without_categories(check):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embeds, self.emb_drop = nn.ModuleList(), nn.Dropout(0.1)
            self.bn_cont, self.layers = (
                nn.BatchNorm1d(3),
                nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)),
            )

        def forward(self, categories, numbers):
            parts = [embed(categories[:, i]) for i, embed in enumerate(self.embeds)]
            x = [self.emb_drop(torch.cat(parts, 1))] if parts else []
            return self.layers(torch.cat([*x, self.bn_cont(numbers)], 1))

    run = check(
        lambda: (Net(), torch.empty(6, 0, dtype=torch.long), torch.randn(6, 3)),
        names=["input", "embeds", "emb_drop", "bn_cont", "layers.0", "layers.1", "layers.2"],
    )
    assert run.layers.index[run.layers.never_called].tolist() == ["embeds", "emb_drop"]


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.relu = nn.Linear(3, 3), nn.Linear(3, 3), nn.ReLU()

    def forward(self, x):
        return self.relu(self.b(self.relu(self.a(self.relu(x)))))


def test_module_that_is_called_three_times(check):
    run = check(lambda: (Reused(), torch.randn(4, 3)), names=["input", "a", "b", "relu"])
    assert run["train"].n.sel(layer="relu").values.tolist() == [36, 36]


def test_several_heads(check):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
            self.kind, self.place = nn.Linear(6, 3), nn.Linear(6, 2)

        def forward(self, x):
            x = self.body(x)
            return {"kind": self.kind(x), "place": self.place(x)}

    check(lambda: (Net(), torch.randn(5, 4)), names=["input", "body.0", "body.1", "kind", "place"])


def test_segmentation(check):
    check(
        lambda: (
            nn.Sequential(
                nn.Conv2d(1, 4, 3, stride=2, padding=1),
                nn.GELU(),
                nn.ConvTranspose2d(4, 4, 2, stride=2),
                nn.Upsample(scale_factor=2),
                nn.Conv2d(4, 3, 1),
            ),
            torch.randn(2, 1, 8, 8),
        )
    )


def test_group_and_instance_norm(check):
    check(
        lambda: (
            nn.Sequential(
                nn.Conv1d(2, 4, 3),
                nn.GroupNorm(2, 4),
                nn.SiLU(),
                nn.InstanceNorm1d(4, affine=True),
                nn.RMSNorm(6),
            ),
            torch.randn(3, 2, 8),
        )
    )


def test_weight_norm(check):
    check(
        lambda: (
            nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2)),
            torch.randn(5, 3),
        ),
        names=["input", "0", "1", "2"],
    )


def test_spectral_norm(check):
    check(
        lambda: (nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 4)), nn.ELU()), torch.randn(5, 3))
    )


def test_spectral_norm_by_a_hook_of_its_own(check):
    check(lambda: (nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 4)), nn.ELU()), torch.randn(5, 3)))


def test_orthogonal_weights(check):
    check(lambda: (nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 3)), nn.ELU()), torch.randn(5, 3)))


def test_tied_weights(check):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.out = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
            self.out.weight = self.embedding.weight

        def forward(self, tokens):
            return self.out(self.embedding(tokens))

    check(lambda: (Net(), torch.randint(0, 10, (2, 5))), names=["embedding", "out"])


def test_one_module_under_two_names(check):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(4, 4)
            self.decoder = self.encoder

        def forward(self, x):
            return self.decoder(self.encoder(x).relu())

    check(lambda: (Net(), torch.randn(2, 4)), names=["input", "encoder"])


def test_lazy_modules_before_their_first_call(check):
    def run(model, watch, x):
        seen = []
        for _ in range(2):
            with watch.batch("train", 0):
                seen.append(model(x))
        return seen

    check(lambda: (nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2)), torch.randn(3, 5)), run)


def test_lazy_modules_after_their_first_call(check):
    def make():
        model, x = nn.Sequential(nn.LazyConv1d(4, 3), nn.LazyBatchNorm1d(), nn.ReLU()), torch.randn(3, 2, 5)
        model(x)
        return model, x

    check(make)


def test_name_that_html_could_mistake(check):
    def make():
        model = nn.Sequential()
        model.add_module("</script>", nn.Linear(3, 3))
        model.add_module("été ☃", nn.ReLU())
        return model, torch.randn(2, 3)

    check(make, names=["input", "</script>", "été ☃"])


def test_generator_and_discriminator(check):
    def run(models, watch, noise, real):
        g, d = models["generator"], models["discriminator"]
        optimizer = torch.optim.SGD([*g.parameters(), *d.parameters()], lr=0.1)
        seen = []
        for _ in range(2):
            with watch.batch("train", 0):
                fake = g(noise)
                loss = d(real).mean() - d(fake.detach()).mean() + d(fake).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(loss)
        return seen

    check(
        lambda: (
            {
                "generator": nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)),
                "discriminator": nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(), nn.Linear(4, 1)),
            },
            torch.randn(5, 2),
            torch.randn(5, 3),
        ),
        run,
    )


def test_two_models_that_share_a_part(check):
    """It goes by both names, and each has the calls of both."""

    def make():
        body = nn.Linear(3, 4)
        models = {
            "actor": nn.Sequential(body, nn.Linear(4, 2)),
            "critic": nn.Sequential(body, nn.Linear(4, 1)),
        }
        return models, torch.randn(5, 3)

    def run(models, watch, x):
        with watch.batch("train", 0):
            return [models["actor"](x), models["critic"](x)]

    run = check(make, run)
    assert run["train"].n.sel(layer=["actor.0", "critic.0"]).values.tolist() == [[40, 40]]


def test_data_parallel_without_gpus(check, learn):
    def make(wrap=nn.DataParallel):
        return wrap(nn.Sequential(nn.Linear(3, 4), nn.ReLU())), torch.randn(2, 3)

    check(make, reference=(lambda: make(lambda model: model), learn), names=["input", "0", "1"])
