-- Begins a batch with its only item's outcome, with which the batch is complete. Nobody knows of it before, so nobody is told.
--
-- ARGV: the batch as JSON, ttl in milliseconds, the status of the item, which is not dead, its outcome's segment. Gives 1, or
-- 0 where the batch is known: then nothing was done.
if call('EXISTS', batch) == 1 then
  return 0
end
local at = now()
call('HSET', batch, 'meta', ARGV[1], 'created', at, 'completed', at, 'touched', at, 'version', 2, 'total', 1, 'landed', 1,
  'duplicates', 0, 'accepted', 0, 'ok', 0, 'failed', 0, 'dead', 0, 'cancelled', 0, 'expired', 0, ARGV[3], 1)
call('XADD', base .. 'outcomes', '1-0', 's', ARGV[4], 'n', 1)
call('HSET', base .. 'bands', 0, '1:0')
call('SADD', base .. 'pages', 0)
call('SETBIT', base .. 'bits:0', 0, 1)
for _, name in ipairs({'batch', 'outcomes', 'bands', 'pages', 'bits:0'}) do
  call('PEXPIRE', base .. name, ARGV[2])
end
return 1
