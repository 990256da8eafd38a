CREATE TABLE users (
    user_id uuid PRIMARY KEY,
    credits integer NOT NULL CHECK (credits >= 0)
);

CREATE TABLE generations (
    generation_id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users,
    model_id text NOT NULL,
    parameters jsonb NOT NULL,
    price_credits integer NOT NULL,
    status text NOT NULL DEFAULT 'queued',
    job_id text,
    object_key text,
    created_at timestamptz NOT NULL DEFAULT now(),
    submitted_at timestamptz,
    callback_at timestamptz,
    finished_at timestamptz
);

CREATE INDEX generations_of_a_user ON generations (user_id, created_at DESC);
