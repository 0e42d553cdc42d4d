-- The PostgreSQL image runs this file once, if its volume is empty.
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_auth;
CREATE DATABASE prefect;
