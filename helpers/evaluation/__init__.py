"""From reward-model scores to HmR, HpR and CAS with intervals and tests."""
