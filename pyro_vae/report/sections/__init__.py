"""The sections of the page, one a file, whose ``section`` takes the findings."""
