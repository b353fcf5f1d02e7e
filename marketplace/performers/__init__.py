"""People who perform: applications, profiles, paid auditions, and where they are paid."""
