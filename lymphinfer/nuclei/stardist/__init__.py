"""StarDist in PyTorch: the network, its targets and loss, training, and decoding to polygons.

Schmidt, Weigert, Broaddus, Myers: *Cell Detection with Star-convex Polygons*, MICCAI 2018.
"""
