package serve

// SweepEvery is how often servers look for replies that nobody will take.
var SweepEvery = &sweepEvery
