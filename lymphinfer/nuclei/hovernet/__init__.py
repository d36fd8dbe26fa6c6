"""HoVer-Net through TIAToolbox: its architecture, post-processing and published weights.

Graham et al.: *HoVer-Net: Simultaneous segmentation and classification of nuclei in multi-tissue
histology images*, Medical Image Analysis 2019. TIAToolbox comes with the extra ``hovernet`` and is
imported only where a network is built; its readers and engines are not used.
"""
