from __future__ import annotations

import torch

from lymphinfer.markers.backbones import IMAGENET_MEAN, IMAGENET_STD, build_backbone
from lymphinfer.markers.nucleus_encoder import CONFIG, NAME, NucleusEncoder, from_detector
from lymphinfer.nuclei.stardist.network import build_network


def test_the_encoder_begins_with_what_the_detector_says_of_the_centre():
    torch.manual_seed(0)
    net = build_network(CONFIG)
    for _ in range(2):
        net(torch.rand(2, 3, 64, 64))
    encoder = NucleusEncoder()
    encoder.load_state_dict(from_detector(net.state_dict()))
    x = torch.rand(2, 3, 112, 112)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    seen = []
    for owner in (net, encoder.net):
        owner.eval().marker.register_forward_hook(lambda m, i, o: seen.append(o))
        owner.marker[0].register_forward_hook(lambda m, i, o: seen.append(o))
    encoder.eval()
    with torch.inference_mode():
        net(x)
        features = encoder((x - mean) / std)
    # The border is padded with black for the one and with the mean colour for the other.
    centre = ..., slice(13, 15), slice(13, 15)
    torch.testing.assert_close(seen[0][centre], seen[2][centre], atol=0.05, rtol=0.05)
    assert features.shape == (2, encoder.num_features)


def test_frozen_it_stays_what_the_detector_taught_it():
    encoder = NucleusEncoder()
    encoder.freeze()
    encoder.train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    encoder(torch.rand(2, 3, 112, 112))
    assert not any(p.requires_grad for p in encoder.parameters())
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_a_stain_elsewhere_in_the_patch_moves_the_centres_features_less_than_its_own():
    torch.manual_seed(0)
    spec = build_backbone(NAME)
    net = spec.module.eval()
    x = torch.zeros(1, 3, 112, 112)
    corner, centre = x.clone(), x.clone()
    corner[..., :16, :16] = 3
    centre[..., 48:64, 48:64] = 3
    with torch.inference_mode():
        base, c, m = (net(v)[:, : CONFIG.n_conv_after_unet] for v in (x, corner, centre))
    assert (m - base).norm() > 3 * (c - base).norm()
