"""From a nucleus to a probability per marker: patches, classifier, calibration, hierarchy."""
