"""The forecaster: growth forecasts of daily series, with intervals, and the analysis of their growth patterns."""
