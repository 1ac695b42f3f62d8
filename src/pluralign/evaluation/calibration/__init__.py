"""Calibration: does a reward margin of m win as often as sigmoid(m) says?"""
