"""Real networks on the golden model: what a model loses, and what it gains.

Needs the extra ``models`` (PyTorch and Transformers); importing this package alone does not.

=====================================  ==========================================================
:mod:`nearbit_nets.loading`            a network by its name or from a folder
:mod:`nearbit_nets.network`            a network whose attention can be replaced
:mod:`nearbit_nets.capture`            queries, keys and values of chosen heads
:mod:`nearbit_nets.golden`             the golden model as a network's attention
:mod:`nearbit_nets.evaluation`         losses, embeddings and retrieval under a method
:mod:`nearbit_nets.decoding`           text, token by token, by append and ask
:mod:`nearbit_nets.codes`              codes learned from a network's own queries and keys
:mod:`nearbit_nets.distill`            networks that learn to attend by signs
:mod:`nearbit_nets.nearest_attention`  their attention in training, with its gradient
=====================================  ==========================================================
"""
