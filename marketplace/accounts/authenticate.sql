-- The holder of a token that is neither expired nor revoked; sets who acts in this transaction.
SELECT token.id AS token_id,
       token.person_id,
       coalesce(token.client_id, member.client_id) AS client_id,
       token.scopes,
       token.last_used_at,
       ARRAY(SELECT role FROM person_role WHERE person_role.person_id = token.person_id) AS roles,
       marketplace_now() AS now,
       set_config('marketplace.actor', coalesce(token.person_id, token.id)::text, true),
       set_config('marketplace.request_id', :request_id, true)
FROM access_token AS token
LEFT JOIN client_member AS member ON member.person_id = token.person_id
WHERE token.token_hash = :token_hash
  AND token.revoked_at IS NULL
  AND token.expires_at > marketplace_now()
