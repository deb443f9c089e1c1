"""The loops: training and evaluation. A step reads like the paper."""
