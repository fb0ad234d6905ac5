"""One attempt of a job on the machine it is on: it trains, and what it has to say goes to the store."""
