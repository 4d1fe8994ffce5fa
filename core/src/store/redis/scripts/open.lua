-- ARGV: the batch as JSON. Gives when it was opened.
if not go_on() then
  call('HSET', batch, 'meta', ARGV[1], 'created', now(), 'version', 1, 'landed', 0, 'duplicates', 0, 'accepted', 0,
    'ok', 0, 'failed', 0, 'dead', 0, 'cancelled', 0, 'expired', 0)
end
return call('HGET', batch, 'created')
