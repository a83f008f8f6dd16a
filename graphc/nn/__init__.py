"""Layers: small objects that declare parameters on their first call and build graph code on every call.

What enters: a symbolic value. What leaves: a symbolic value, and parameters named by scopes
("classifier/dense_0/weight"). Invariant: a layer holds no numbers; calling it twice shares its parameters.

>>> import graphc.ops as ops
>>> net = Sequential(Dense(128, activation="relu"), Dense(10), name="classifier")
>>> str(net(ops.input("image", ("batch", 784))).type)
'f32[batch,10]'
>>> [p.name for p in net.parameters()][:2]
['classifier/dense_0/weight', 'classifier/dense_0/bias']
"""

from __future__ import annotations

from graphc.nn.convolution import AvgPool2D, Conv1D, Conv2D, GlobalAvgPool2D, MaxPool2D
from graphc.nn.layer import Layer
from graphc.nn.layers import ACTIVATIONS, Activation, Dense, Dropout, Flatten, Lambda, Sequential
from graphc.nn.phase import phase, training_step, with_phase
from graphc.nn.recurrent import GRU, LSTM, RNN
from graphc.nn.transformer import GPT, Embedding, LayerNorm, MultiHeadAttention, TransformerBlock

__all__ = [
    "ACTIVATIONS",
    "GPT",
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "AvgPool2D",
    "Conv1D",
    "Conv2D",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalAvgPool2D",
    "Lambda",
    "Layer",
    "LayerNorm",
    "MaxPool2D",
    "MultiHeadAttention",
    "Sequential",
    "TransformerBlock",
    "phase",
    "training_step",
    "with_phase",
]
