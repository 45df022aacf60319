"""Plasticity inside other people's training loops. Import the one you need:

from meristem.callbacks.lightning import PlasticityCallback
from meristem.callbacks.huggingface import PlasticityCallback
"""
