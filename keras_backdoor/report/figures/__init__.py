"""Figures from plain arrays: a library for notebooks, too. Each function gives a `matplotlib.figure.Figure`, without pyplot.

A notebook that has imported `matplotlib.pyplot` shows what a cell ends with; `figure.savefig(path)` writes a file,
`drawing.save_figure` one as PNG and one as SVG.
"""

from keras_backdoor.pareto import pareto_front
from keras_backdoor.report.figures.curves import Rates, epoch_axes, loss_curve, pruning_curve, rate_curves
from keras_backdoor.report.figures.features import feature_maps
from keras_backdoor.report.figures.histograms import BINS, score_histograms
from keras_backdoor.report.figures.maps import activation_maps, grid_maps, heat_maps
from keras_backdoor.report.figures.pictures import image_strips, picture_rows
from keras_backdoor.report.figures.trade_off import trade_off

__all__ = [
    "BINS",
    "Rates",
    "activation_maps",
    "epoch_axes",
    "feature_maps",
    "grid_maps",
    "heat_maps",
    "image_strips",
    "loss_curve",
    "pareto_front",
    "picture_rows",
    "pruning_curve",
    "rate_curves",
    "score_histograms",
    "trade_off",
]
