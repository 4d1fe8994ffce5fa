-- ARGV: the batch as JSON. Gives 1 and nothing where it was not known, else 0 and the batch as it was opened.
if go_on() then
  return {0, call('HGET', batch, 'meta') or ''}
end
call('HSET', batch, 'meta', ARGV[1], 'created', now(), 'version', 1, 'landed', 0, 'duplicates', 0, 'accepted', 0,
  'ok', 0, 'failed', 0, 'dead', 0, 'cancelled', 0, 'expired', 0)
return {1, ''}
