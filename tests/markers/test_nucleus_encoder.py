from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from lymphinfer.markers.backbone_parts import IMAGENET_MEAN, IMAGENET_STD
from lymphinfer.markers.backbones import build_backbone
from lymphinfer.markers.nucleus_encoder import (
    CONFIG,
    NAME,
    NucleusEncoder,
    around_centre,
    from_detector,
)
from lymphinfer.nuclei.stardist.network import build_network


def normalised(x):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (x - mean) / std


def test_the_encoder_begins_with_what_the_detectors_marker_head_reads():
    torch.manual_seed(0)
    with_context = build_network(replace(CONFIG, n_marker_context=8))
    encoder = NucleusEncoder()
    encoder.load_state_dict(from_detector(with_context.state_dict()))
    seen = []
    with_context.eval().marker_context.register_forward_hook(lambda m, i, o: seen.extend(i))
    x = torch.rand(2, 3, 192, 192)
    with torch.inference_mode():
        with_context(x)
        features = encoder.eval()(normalised(x))
    read = torch.cat([around_centre(m, 192 / m.shape[-1]) for m in seen], dim=1)
    # The border is padded with black for the one and with the mean colour for the other.
    assert F.cosine_similarity(read, features).min() > 0.98
    assert features.shape == (2, encoder.num_features)


def test_the_mean_around_the_centre_is_that_of_a_plane_and_leaves_the_corners_out():
    line = torch.arange(20.0)
    plane = (line[:, None] + 2 * line)[None, None]
    torch.testing.assert_close(around_centre(plane, 4.0), torch.tensor([[9.5 * 3]]))
    corner = torch.zeros(1, 1, 20, 20)
    corner[..., :4, :4] = 1e6
    assert around_centre(corner, 4.0).abs() < 1e-3


def test_frozen_it_stays_what_the_detector_taught_it():
    encoder = NucleusEncoder()
    encoder.freeze()
    encoder.train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    encoder(torch.rand(2, 3, 112, 112))
    assert not any(p.requires_grad for p in encoder.parameters())
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_a_stain_elsewhere_in_the_patch_moves_the_features_less_than_one_on_the_nucleus():
    torch.manual_seed(0)
    spec = build_backbone(NAME)
    net = spec.module.eval()
    x = torch.zeros(1, 3, 112, 112)
    corner, centre = x.clone(), x.clone()
    corner[..., :16, :16] = 3
    centre[..., 48:64, 48:64] = 3
    with torch.inference_mode():
        base, c, m = (net(v) for v in (x, corner, centre))
    assert (m - base).norm() > 3 * (c - base).norm()
