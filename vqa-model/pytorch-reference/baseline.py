"""The model in PyTorch: the reference that the Rust model is tested against."""

import warnings

import torch
from torch import nn
from torch.nn.utils import weight_norm

warnings.filterwarnings("ignore", message=".*weight_norm.*", category=FutureWarning)


class FCNet(nn.Module):
    def __init__(self, dims):
        super().__init__()
        layers = []
        for in_dim, out_dim in zip(dims, dims[1:]):
            layers += [weight_norm(nn.Linear(in_dim, out_dim), dim=None), nn.ReLU()]
        self.main = nn.Sequential(*layers)

    def forward(self, x):
        return self.main(x)


class SimpleClassifier(nn.Module):
    def __init__(self, in_dim, hid_dim, out_dim, dropout):
        super().__init__()
        self.main = nn.Sequential(
            weight_norm(nn.Linear(in_dim, hid_dim), dim=None),
            nn.ReLU(),
            nn.Dropout(dropout),
            weight_norm(nn.Linear(hid_dim, out_dim), dim=None),
        )

    def forward(self, x):
        return self.main(x)


class WordEmbedding(nn.Module):
    def __init__(self, n_words, dim):
        super().__init__()
        self.emb = nn.Embedding(n_words + 1, dim, padding_idx=n_words)

    def forward(self, x):
        return self.emb(x)


class QuestionEmbedding(nn.Module):
    def __init__(self, in_dim, hid_dim, n_layers, bidirectional, dropout, rnn_type):
        super().__init__()
        self.hid_dim = hid_dim
        self.bidirectional = bidirectional
        rnn = {"GRU": nn.GRU, "LSTM": nn.LSTM}[rnn_type]
        self.rnn = rnn(in_dim, hid_dim, n_layers, bidirectional=bidirectional, dropout=dropout, batch_first=True)

    def forward(self, x):
        states, _ = self.rnn(x)
        if not self.bidirectional:
            return states[:, -1]
        return torch.cat([states[:, -1, : self.hid_dim], states[:, 0, self.hid_dim :]], 1)


class ConcatAttention(nn.Module):
    def __init__(self, q_dim, v_dim, hid_dim, dropout):
        super().__init__()
        self.nonlinear = FCNet([v_dim + q_dim, hid_dim])
        self.linear = weight_norm(nn.Linear(hid_dim, 1), dim=None)

    def forward(self, q, v):
        q = q.unsqueeze(1).expand(-1, v.size(1), -1)
        return torch.softmax(self.linear(self.nonlinear(torch.cat([v, q], 2))), 1)


class ProductAttention(nn.Module):
    def __init__(self, q_dim, v_dim, hid_dim, dropout):
        super().__init__()
        self.v_proj = FCNet([v_dim, hid_dim])
        self.q_proj = FCNet([q_dim, hid_dim])
        self.dropout = nn.Dropout(dropout)
        self.linear = weight_norm(nn.Linear(hid_dim, 1), dim=None)

    def forward(self, q, v):
        joint = self.v_proj(v) * self.q_proj(q).unsqueeze(1)
        return torch.softmax(self.linear(self.dropout(joint)), 1)


class Baseline(nn.Module):
    """`config` has the keys of [model] in a config file."""

    def __init__(self, config, n_words, n_answers, feature_dim):
        super().__init__()
        lm, att, hid_dim = config["lm"], config["topdown_att"], config["hid_dim"]
        q_dim = hid_dim * (2 if lm["bidirectional"] else 1)
        attention = {"concat": ConcatAttention, "product": ProductAttention}[att["type"]]
        self.w_emb = WordEmbedding(n_words, lm["word_emb_dim"])
        self.q_emb = QuestionEmbedding(
            lm["word_emb_dim"], hid_dim, lm["n_layers"], lm["bidirectional"], lm["dropout"], lm["rnn_type"]
        )
        self.v_att = attention(q_dim, feature_dim, att["hid_dim"], att["dropout"])
        self.q_net = FCNet([q_dim, hid_dim])
        self.v_net = FCNet([feature_dim, hid_dim])
        self.classifier = SimpleClassifier(hid_dim, config["mlp"]["hid_dim"], n_answers, config["mlp"]["dropout"])

    def forward(self, tokens, regions):
        q = self.q_emb(self.w_emb(tokens))
        attention = self.v_att(q, regions)  # [B, K, 1]
        v = (attention * regions).sum(1)
        logits = self.classifier(self.q_net(q) * self.v_net(v))
        return logits, attention.squeeze(2)
